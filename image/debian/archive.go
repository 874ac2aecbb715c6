package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

var (
	// ErrGone means that the mirror no longer has the version asked for.
	ErrGone = errors.New("the mirror no longer has this version; renew the lock with 'make image-lock'")
	// ErrAltered means that an archive is not the one the lock names.
	ErrAltered = errors.New("the archive differs from what the lock names")
)

// Archive fetches packages and keeps them in a directory of its own.
type Archive struct {
	// Dir holds apt's private state and the fetched archives. It is made when it does not exist.
	Dir string
}

// DefaultDir is where archives are kept unless a caller says otherwise: $UNDERSTUDY_CACHE/debian, or else
// understudy/debian in the user's cache directory.
func DefaultDir() (string, error) {
	if dir := os.Getenv("UNDERSTUDY_CACHE"); dir != "" {
		return filepath.Join(dir, "debian"), nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("debian: no place for fetched packages: %w; set UNDERSTUDY_CACHE", err)
	}
	return filepath.Join(dir, "understudy", "debian"), nil
}

func (a Archive) archives() string { return filepath.Join(a.Dir, "archives") }

// Update renews the signed indices. The other methods do it themselves where there are none yet.
func (a Archive) Update(ctx context.Context) error {
	return a.locked(ctx, func() error { return a.update(ctx) })
}

func (a Archive) update(ctx context.Context) error {
	_, err := a.apt(ctx, a.Dir, "apt-get", "update", "--error-on=any")
	return err
}

// ensureLists makes sure that there are indices, of any age.
func (a Archive) ensureLists(ctx context.Context) error {
	known, err := filepath.Glob(filepath.Join(a.Dir, "lists", "*Release"))
	if err != nil || len(known) > 0 {
		return err
	}
	return a.update(ctx)
}

// Resolve returns the versions that apt would install now, in the order of the names.
func (a Archive) Resolve(ctx context.Context, names ...string) ([]Package, error) {
	if err := checkNames(names); err != nil {
		return nil, err
	}
	var packages []Package
	return packages, a.locked(ctx, func() (err error) {
		if err = a.ensureLists(ctx); err == nil {
			packages, err = a.show(ctx, names)
		}
		return err
	})
}

// Closure returns the packages named and all that they depend on, recommendations left out, as on a machine where
// nothing is installed; in the order in which apt would unpack them.
func (a Archive) Closure(ctx context.Context, names ...string) ([]Package, error) {
	if err := checkNames(names); err != nil {
		return nil, err
	}
	var packages []Package
	return packages, a.locked(ctx, func() error {
		if err := a.ensureLists(ctx); err != nil {
			return err
		}
		list, err := a.apt(ctx, a.Dir, "apt-get", append([]string{"install", "--simulate", "--no-install-recommends"}, names...)...)
		if err != nil {
			return err
		}
		exact, err := parseSimulation(list)
		if err != nil {
			return err
		}
		packages, err = a.show(ctx, exact)
		return err
	})
}

// show asks for records; a name is NAME or NAME=VERSION.
func (a Archive) show(ctx context.Context, names []string) ([]Package, error) {
	text, err := a.apt(ctx, a.Dir, "apt-cache", append([]string{"show", "--no-all-versions"}, names...)...)
	if err != nil {
		return nil, err
	}
	records, err := ParseRecords(text)
	if err != nil {
		return nil, err
	}
	byName := make(map[string]Package, len(records))
	for _, p := range records {
		byName[p.Name] = p
	}
	packages := make([]Package, 0, len(names))
	for _, name := range names {
		name, version, exact := strings.Cut(name, "=")
		p, ok := byName[name]
		if !ok || exact && p.Version != version {
			return nil, fmt.Errorf("debian: the indices hold no package %s %s; is it virtual, or of another release?", name, version)
		}
		packages = append(packages, p)
	}
	return packages, nil
}

func checkNames(names []string) error {
	if len(names) == 0 {
		return errors.New("debian: no package named")
	}
	for _, name := range names {
		if !nameForm.MatchString(name) {
			return fmt.Errorf("debian: %.100q is not a package's name", name)
		}
	}
	return nil
}

// parseSimulation reads the lines 'Inst NAME (VERSION …)' of apt-get --simulate.
func parseSimulation(text []byte) ([]string, error) {
	var exact []string
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, "Inst ")
		if !ok {
			continue
		}
		name, rest, ok := strings.Cut(rest, " (")
		version, _, ok2 := strings.Cut(rest, " ")
		if !ok || !ok2 || !nameForm.MatchString(name) || !versionForm.MatchString(version) {
			return nil, fmt.Errorf("debian: apt-get --simulate said %.200q, which is not understood", line)
		}
		exact = append(exact, name+"="+version)
	}
	if len(exact) == 0 {
		return nil, errors.New("debian: apt-get --simulate would install nothing")
	}
	return exact, nil
}

// Fetch makes sure that exactly these archives are in the cache and returns their paths, in the same order. Each
// one's size and SHA-256 are checked at every call, also when nothing had to be fetched; then apt is not needed.
func (a Archive) Fetch(ctx context.Context, packages []Package) ([]string, error) {
	paths := make([]string, len(packages))
	for i, p := range packages {
		if err := p.Check(); err != nil {
			return nil, err
		}
		paths[i] = filepath.Join(a.archives(), p.file())
	}
	missing, err := absent(packages, paths)
	if err != nil || len(missing) == 0 {
		return paths, err
	}
	return paths, a.locked(ctx, func() error {
		if err := a.ensureLists(ctx); err != nil {
			return err
		}
		missing, err := absent(packages, paths) // another process may have fetched them
		if err != nil || len(missing) == 0 {
			return err
		}
		err = a.download(ctx, missing)
		if failed := (*aptError)(nil); errors.As(err, &failed) && ctx.Err() == nil {
			// The indices may be older than the mirror.
			if err := a.update(ctx); err != nil {
				return err
			}
			err = a.download(ctx, missing)
		}
		return err
	})
}

// absent returns the packages that are not in the cache; an archive that is there but differs is an error.
func absent(packages []Package, paths []string) ([]Package, error) {
	var missing []Package
	for i, p := range packages {
		err := verify(paths[i], p)
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, p)
		} else if err != nil {
			return nil, err
		}
	}
	return missing, nil
}

// download asks apt for archives, in a directory beside the cache, so that a broken download is never taken for a whole one.
func (a Archive) download(ctx context.Context, packages []Package) (err error) {
	dir, err := os.MkdirTemp(a.Dir, "download-")
	if err != nil {
		return fmt.Errorf("debian: the cache: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	arguments := []string{"download"}
	for _, p := range packages {
		arguments = append(arguments, p.Name+":"+Architecture+"="+p.Version)
	}
	if _, err := a.apt(ctx, dir, "apt-get", arguments...); err != nil {
		failed := (*aptError)(nil)
		if errors.As(err, &failed) && (strings.Contains(failed.said, "was not found") || strings.Contains(failed.said, "Unable to locate") || strings.Contains(failed.said, "404")) {
			return fmt.Errorf("%w: %w", ErrGone, err)
		}
		return err
	}
	for _, p := range packages {
		path := filepath.Join(dir, p.file())
		if err := verify(path, p); err != nil {
			return err
		}
		if err := os.Rename(path, filepath.Join(a.archives(), p.file())); err != nil {
			return fmt.Errorf("debian: the cache: %w", err)
		}
	}
	return nil
}

// verify checks an archive's size and digest.
func verify(path string, p Package) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("debian: %w", err)
	}
	defer f.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, io.LimitReader(f, p.Size+1))
	if err != nil {
		return fmt.Errorf("debian: read %s: %w", path, err)
	}
	if digest := hex.EncodeToString(hash.Sum(nil)); n != p.Size || digest != p.SHA256 {
		return fmt.Errorf("debian: %s: %w: %d bytes with SHA-256 %s, not %d with %s; remove the file, or renew the lock with 'make image-lock'",
			path, ErrAltered, n, digest, p.Size, p.SHA256)
	}
	return nil
}
