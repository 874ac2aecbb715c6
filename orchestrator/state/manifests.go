package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/manifest"
)

// Manifest names one file of a disk's chain: a whole manifest, or a delta over the ones before it.
type Manifest struct {
	Disk       string
	File       string // its name in STATE/manifests/<replica>
	Delta      bool
	Generation manifest.Generation
	Root       manifest.Digest
	KeyID      manifest.KeyID
	Committed  time.Time
	sequence   int64
}

// View is the manifest of a disk at one generation, read from its chain of files. Close it after use.
type View struct {
	manifest.View
	files []*os.File
}

// Close closes the files, which were only read.
func (v *View) Close() {
	for _, f := range v.files {
		_ = f.Close()
	}
}

// Manifests lists the committed manifests of a disk, the oldest first: one for each generation that can still be viewed.
func (s *Store) Manifests(ctx context.Context, replica, disk string) ([]Manifest, error) {
	manifests, err := manifestsOf(ctx, s.db, replica, disk)
	if err != nil {
		return nil, fmt.Errorf("listing the manifests of disk %s of replica %s: %w", disk, replica, err)
	}
	return manifests, nil
}

// CurrentView opens the newest committed manifest of a disk. It says what the target holds only while the disk's state is
// clean. ErrNotFound when there is none; manifest.ErrCorrupt and manifest.ErrKey when it must count as absent.
func (s *Store) CurrentView(ctx context.Context, replica, disk string) (*View, error) {
	manifests, err := s.Manifests(ctx, replica, disk)
	if err != nil {
		return nil, err
	}
	if len(manifests) == 0 {
		return nil, fmt.Errorf("manifest of disk %s of replica %s: %w", disk, replica, ErrNotFound)
	}
	return s.openChain(replica, manifests)
}

// ViewAt is CurrentView for an older generation, such as that of a restore point.
func (s *Store) ViewAt(ctx context.Context, replica, disk string, generation manifest.Generation) (*View, error) {
	manifests, err := s.Manifests(ctx, replica, disk)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(manifests, func(m Manifest) bool { return m.Generation == generation })
	if i < 0 {
		return nil, fmt.Errorf("manifest of generation %s of disk %s of replica %s: %w", generation, disk, replica, ErrNotFound)
	}
	return s.openChain(replica, manifests[:i+1])
}

// ViewComposed opens a manifest that ComposeManifest has made and SetClean has not named yet.
func (s *Store) ViewComposed(ctx context.Context, replica string, m Manifest) (*View, error) {
	chain := []Manifest{m}
	if m.Delta {
		committed, err := s.Manifests(ctx, replica, m.Disk)
		if err != nil {
			return nil, err
		}
		chain = append(committed, m)
	}
	return s.openChain(replica, chain)
}

// openChain opens the last whole manifest of the list with the deltas after it.
func (s *Store) openChain(replica string, manifests []Manifest) (*View, error) {
	newest := manifests[len(manifests)-1]
	v := &View{}
	if err := s.readChain(v, replica, manifests); err != nil {
		v.Close()
		return nil, fmt.Errorf("manifest of disk %s of replica %s, generation %s: %w", newest.Disk, replica, newest.Generation, err)
	}
	return v, nil
}

func (s *Store) readChain(v *View, replica string, manifests []Manifest) error {
	for len(manifests) > 1 && (manifests[0].Delta || slices.ContainsFunc(manifests[1:], func(m Manifest) bool { return !m.Delta })) {
		manifests = manifests[1:]
	}
	base, err := openPart(s, v, replica, manifests[0], manifest.Open)
	if err != nil {
		return err
	}
	if err := base.Verify(s.installation.DigestKey); err != nil {
		return err
	}
	var deltas []*manifest.Delta
	for _, m := range manifests[1:] {
		delta, err := openPart(s, v, replica, m, manifest.OpenDelta)
		if err != nil {
			return err
		}
		deltas = append(deltas, delta)
	}
	v.View = base
	if len(deltas) > 0 {
		if v.View, err = manifest.NewOverlay(s.installation.DigestKey, base, deltas...); err != nil {
			return err
		}
	}
	if newest := manifests[len(manifests)-1]; v.Root() != newest.Root || v.Header().Generation != newest.Generation {
		return fmt.Errorf("%s holds generation %s with root %s, committed was root %s: %w",
			newest.File, v.Header().Generation, v.Root(), newest.Root, manifest.ErrCorrupt)
	}
	return nil
}

// openPart opens one file of a chain, which the view then holds. A missing file is a manifest.ErrCorrupt.
func openPart[T any](s *Store, v *View, replica string, m Manifest, open func(io.ReaderAt, int64) (T, error)) (part T, err error) {
	f, err := os.Open(s.manifestPath(replica, m.File))
	if errors.Is(err, os.ErrNotExist) {
		return part, fmt.Errorf("%w: %w", manifest.ErrCorrupt, err)
	} else if err != nil {
		return part, err
	}
	v.files = append(v.files, f)
	info, err := f.Stat()
	if err != nil {
		return part, err
	}
	if part, err = open(f, info.Size()); err != nil {
		return part, fmt.Errorf("%s: %w", m.File, err)
	}
	return part, nil
}

// Composition says what a run's manifest is made of.
type Composition struct {
	Replica, Disk string
	// Base is the disk's CurrentView, over which a delta is stored; nil stores a whole manifest, as is right when there is
	// none or it does not count.
	Base    *View
	Header  manifest.Header
	Missing manifest.Missing // what extents are that neither Base nor Changes have
	Changes manifest.Changes
}

// ComposeManifest writes the manifest that a run leads to and makes it durable. It counts only once SetClean names it.
// Left-overs of runs that did not come that far are removed. Only the owner of the replica's unfinished run may.
func (s *Store) ComposeManifest(ctx context.Context, c Composition) (Manifest, error) {
	m := Manifest{Disk: c.Disk, Delta: c.Base != nil, Generation: c.Header.Generation, KeyID: s.installation.DigestKey.ID()}
	m.File = m.fileName()
	what := fmt.Sprintf("composing the manifest of disk %s of replica %s", c.Disk, c.Replica)
	if err := s.sweep(ctx, what, c.Replica, c.Disk); err != nil {
		return Manifest{}, err
	}
	err := s.checkBase(ctx, c)
	if err != nil {
		return Manifest{}, fmt.Errorf("%s: %w", what, err)
	}
	m.Root, err = s.writeManifest(ctx, c.Replica, m.File, func(w io.Writer) (manifest.Digest, error) {
		if c.Base == nil {
			return manifest.Compose(w, s.installation.DigestKey, c.Header, nil, c.Missing, c.Changes)
		}
		return manifest.ComposeDelta(w, s.installation.DigestKey, c.Header, c.Base.View, c.Missing, c.Changes)
	})
	if err != nil {
		return Manifest{}, fmt.Errorf("%s: %w", what, err)
	}
	return m, nil
}

// checkBase refuses a delta over anything but the newest manifest: the chain could not be read.
func (s *Store) checkBase(ctx context.Context, c Composition) error {
	if c.Base == nil {
		return nil
	}
	manifests, err := manifestsOf(ctx, s.db, c.Replica, c.Disk)
	if err != nil {
		return err
	}
	if len(manifests) == 0 || manifests[len(manifests)-1].Root != c.Base.Root() || manifests[len(manifests)-1].Generation != c.Base.Header().Generation {
		return fmt.Errorf("generation %s is not the newest of the disk: %w", c.Base.Header().Generation, manifest.ErrBase)
	}
	return nil
}

// PruneManifests keeps the newest keep generations of a disk and merges what lies before them into the oldest kept one.
// Only the owner of the replica's unfinished run may.
func (s *Store) PruneManifests(ctx context.Context, replica, disk string, keep int) error {
	what := fmt.Sprintf("pruning the manifests of disk %s of replica %s", disk, replica)
	if keep < 1 {
		return fmt.Errorf("%s: %d generations to keep, want at least one", what, keep)
	}
	manifests, err := s.Manifests(ctx, replica, disk)
	if err != nil || len(manifests) <= keep {
		return err
	}
	oldest := manifests[len(manifests)-keep]
	base := oldest
	if oldest.Delta {
		view, err := s.openChain(replica, manifests[:len(manifests)-keep+1])
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		defer view.Close()
		base.Delta = false
		base.File = base.fileName()
		base.Root, err = s.writeManifest(ctx, replica, base.File, func(w io.Writer) (manifest.Digest, error) {
			return manifest.Flatten(w, s.installation.DigestKey, view)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	err = s.writeReplica(ctx, what, replica, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM manifests WHERE replica = ? AND disk = ? AND sequence < ?`, replica, disk, base.sequence)
		if err != nil {
			return err
		}
		result, err := tx.ExecContext(ctx, `UPDATE manifests SET file = ?, delta = 0 WHERE replica = ? AND disk = ? AND sequence = ? AND root = ?`,
			base.File, replica, disk, base.sequence, base.Root.String())
		if err != nil {
			return err
		}
		return changedOne(result, "manifest "+oldest.File)
	})
	if err != nil {
		return err
	}
	return s.sweep(ctx, what, replica, disk)
}

// writeManifest writes one file whole and durably, or not at all.
func (s *Store) writeManifest(ctx context.Context, replica, name string, compose func(io.Writer) (manifest.Digest, error)) (root manifest.Digest, err error) {
	dir := filepath.Join(s.dir, manifestsName, replica)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return root, err
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return root, err
	}
	f, err := manifest.Create(filepath.Join(dir, name))
	if err != nil {
		return root, err
	}
	root, err = compose(contextWriter{ctx, f})
	if err == nil {
		err = f.Commit()
	}
	return root, errors.Join(err, f.Close())
}

// contextWriter lets a long composition end with its context.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w contextWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}

// sweep removes the files of a disk that no row names: a run wrote them and did not commit, or they were pruned.
func (s *Store) sweep(ctx context.Context, what, replica, disk string) error {
	return s.writeReplica(ctx, what, replica, func(tx *sql.Tx) error {
		if _, err := findDisk(ctx, tx, replica, disk); err != nil {
			return err
		}
		manifests, err := manifestsOf(ctx, tx, replica, disk)
		if err != nil {
			return err
		}
		return s.removeFiles(replica, disk, manifests)
	})
}

// removeFiles removes the manifest files of a disk but those of keep.
func (s *Store) removeFiles(replica, disk string, keep []Manifest) error {
	entries, err := os.ReadDir(filepath.Join(s.dir, manifestsName, replica))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		// A leading dot marks a file that was not finished.
		ours := strings.HasPrefix(strings.TrimPrefix(name, "."), disk+".") && name != disk+".journal"
		if ours && !slices.ContainsFunc(keep, func(m Manifest) bool { return m.File == name }) {
			if err := os.Remove(s.manifestPath(replica, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m Manifest) fileName() string {
	if m.Delta {
		return fmt.Sprintf("%s.%s.delta", m.Disk, m.Generation)
	}
	return fmt.Sprintf("%s.%s.manifest", m.Disk, m.Generation)
}

func (s *Store) manifestPath(replica, name string) string {
	return filepath.Join(s.dir, manifestsName, replica, name)
}

func insertManifest(ctx context.Context, tx *sql.Tx, replica string, m Manifest) error {
	_, err := tx.ExecContext(ctx,
		`INSERT INTO manifests (replica, disk, sequence, file, delta, generation, root, key_id, committed)
		 SELECT ?1, ?2, 1 + coalesce(max(sequence), 0), ?3, ?4, ?5, ?6, ?7, ?8 FROM manifests WHERE replica = ?1 AND disk = ?2`,
		replica, m.Disk, m.File, m.Delta, m.Generation.String(), m.Root.String(), m.KeyID.String(), timeText(time.Now()))
	return err
}

func manifestsOf(ctx context.Context, q querier, replica, disk string) ([]Manifest, error) {
	return queryAll(ctx, q, scanManifest,
		`SELECT disk, sequence, file, delta, generation, root, key_id, committed FROM manifests WHERE replica = ? AND disk = ? ORDER BY sequence`,
		replica, disk)
}

func scanManifest(scan scanFunc) (m Manifest, err error) {
	var generation, root, key, committed string
	if err := scan(&m.Disk, &m.sequence, &m.File, &m.Delta, &generation, &root, &key, &committed); err != nil {
		return Manifest{}, err
	}
	if m.Generation, err = manifest.ParseGeneration(generation); err != nil {
		return Manifest{}, err
	}
	if m.Root, err = manifest.ParseDigest(root); err != nil {
		return Manifest{}, err
	}
	if m.KeyID, err = manifest.ParseKeyID(key); err != nil {
		return Manifest{}, err
	}
	m.Committed, err = parseTime(committed)
	return m, err
}
