package dataset

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/understudy-dr/understudy/manifest"
)

// MinSize is the smallest disk that still has something of everything.
const MinSize = 32 << 20

// Shares of the disk.
const (
	treeShare  = 10 // four of ten are files of the machine
	filmShare  = 16
	tableShare = 16
	noiseShare = 4 // the incompressible disk is that part of the other's size
)

// Names of the images in the set's folder.
const (
	base   = "base.raw"   // the file system
	moved  = "moved.raw"  // the same after its film was moved
	random = "random.raw" // what an encrypted disk looks like
	target = "target.raw" // of workloads that change something
	empty  = "empty.raw"  // of workloads that copy all
)

// Set is the images of one size.
type Set struct {
	Dir       string
	Size      int64 // of base, in bytes
	TreeBytes int64 // of the machine's files in it
	Workloads []*Workload

	// holds tells which source a target is equal to, or of which workload it has the old content; empty is unknown.
	holds map[string]string
}

// Build makes the images in dir, which it creates; they take some four times the size. size is a multiple of 64 KiB and at least
// MinSize. roots are folders of files to take.
func Build(ctx context.Context, dir string, size int64, roots []string) (*Set, error) {
	if size < MinSize || size%manifest.BlockSize != 0 {
		return nil, fmt.Errorf("a disk of %d bytes: it must be a multiple of %d and at least %d", size, manifest.BlockSize, MinSize)
	}
	s := &Set{Dir: dir, Size: size, holds: make(map[string]string)}
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return nil, err
	}
	var err error
	if s.TreeBytes, err = stage(ctx, tree, roots, size/treeShare*4); err != nil {
		return nil, fmt.Errorf("collect files: %w", err)
	}
	film := filepath.Join(tree, "film")
	filmContent, tableContent, randomContent := source("film"), source("table"), source("random")
	err = errors.Join(
		generate(filepath.Join(tree, "table"), size/tableShare, func(p []byte) { table(tableContent, p) }),
		generate(film, size/filmShare, func(p []byte) { noise(filmContent, p) }),
		generate(s.path(random), size/noiseShare, func(p []byte) { noise(randomContent, p) }),
	)
	if err != nil {
		return nil, err
	}
	sparse := s.path("sparse")
	if err := makeFileSystem(ctx, sparse, size, tree); err != nil {
		return nil, err
	}
	if err := copyWhole(s.path(base), sparse); err != nil {
		return nil, err
	}
	if err := moveFile(ctx, sparse, film, "film-moved", "film"); err != nil {
		return nil, err
	}
	if err := copyWhole(s.path(moved), sparse); err != nil {
		return nil, err
	}
	if err := errors.Join(os.RemoveAll(tree), os.Remove(sparse)); err != nil {
		return nil, err
	}
	return s, s.plan(ctx)
}

// plan makes the workloads.
func (s *Set) plan(ctx context.Context) error {
	used, err := usedBlocks(s.path(base))
	if err != nil {
		return err
	}
	database, err := locate(ctx, s.path(base), "table")
	if err != nil {
		return err
	}
	back, err := differing(s.path(moved), s.path(base))
	if err != nil {
		return err
	}
	blocks := int(s.Size / manifest.BlockSize)
	s.Workloads = []*Workload{
		{Name: "unchanged", About: "nothing has changed", source: base},
		{Name: "changed1", About: "one block of 64 KiB in a hundred has had one write of 4 KiB, scattered over the used part", source: base,
			before: overwrite("changed1", scattered(used, blocks/100, pageSize))},
		{Name: "changed1-clustered", About: "1 % of the disk has changed, in runs of 1 MiB", source: base,
			before: overwrite("clustered", clustered(used, blocks/100, 1<<20))},
		{Name: "changed10", About: "10 % of the disk has changed, in runs of 256 KiB", source: base,
			before: overwrite("changed10", clustered(used, blocks/10, 256<<10))},
		{Name: "changed100", About: "the target is empty: a first copy", source: base, empty: true},
		{Name: "moved", About: fmt.Sprintf("a file of %d MiB was copied and the old one removed, inside the file system", s.Size/filmShare>>20), source: moved,
			before: restore(s.path(base), back)},
		{Name: "incompressible", About: "a first copy of a disk that does not compress, of a quarter of the others' size", source: random, empty: true},
		{Name: "db", About: "a database has written pages of 4 KiB at random: one page in ten of its file", source: base,
			before: overwrite("db", pages(database, 10))},
	}
	for _, w := range s.Workloads {
		w.set = s
		w.Size = s.Size
		if w.source == random {
			w.Size = s.Size / noiseShare
		}
		w.Size -= w.Size % manifest.BlockSize
	}
	return os.Truncate(s.path(random), s.Size/noiseShare/manifest.BlockSize*manifest.BlockSize)
}

// Workload returns the workload of a name.
func (s *Set) Workload(name string) (*Workload, error) {
	i := slices.IndexFunc(s.Workloads, func(w *Workload) bool { return w.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("there is no workload %q", name)
	}
	return s.Workloads[i], nil
}

// Remove deletes the images.
func (s *Set) Remove() error { return os.RemoveAll(s.Dir) }

func (s *Set) path(name string) string { return filepath.Join(s.Dir, name) }
