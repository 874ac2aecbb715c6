package dataset

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"

	"github.com/understudy-dr/understudy/manifest"
)

// Workload is a source, and what the target held before.
type Workload struct {
	Name  string
	About string
	Size  int64 // of both disks in bytes

	set    *Set
	source string
	// before writes the old content into a target that is equal to the source; nil: nothing has changed.
	before func(target *os.File) error
	empty  bool // the target held nothing
}

// Dir is the folder in which Source and Target are names of files.
func (w *Workload) Dir() string { return w.set.Dir }

// Source is the image that is read.
func (w *Workload) Source() string { return w.source }

// Target is the image that is written.
func (w *Workload) Target() string {
	if w.empty {
		return empty
	}
	return target
}

// FullCopy reports whether the target holds nothing of the source.
func (w *Workload) FullCopy() bool { return w.empty }

// Prepare gives the target its old content. That it reaches the disk before the clock runs is the caller's affair.
func (w *Workload) Prepare() error {
	path := w.set.path(w.Target())
	if w.empty {
		return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, w.Size))
	}
	switch w.set.holds[w.Target()] {
	case w.old():
		w.set.holds[w.Target()] = ""
		return nil
	case w.source:
	default:
		if err := copyWhole(path, w.set.path(w.source)); err != nil {
			return err
		}
	}
	w.set.holds[w.Target()] = ""
	if w.before == nil {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(w.before(f), f.Close())
}

// Done tells that a run has made the target equal to the source. Without it, the next Prepare trusts nothing.
func (w *Workload) Done() { w.set.holds[w.Target()] = w.source }

// Untouched tells that the target still has its old content.
func (w *Workload) Untouched() { w.set.holds[w.Target()] = w.old() }

func (w *Workload) old() string { return "before " + w.Name }

// overwrite writes content that the source does not hold.
func overwrite(purpose string, spans []span) func(*os.File) error {
	return func(f *os.File) error {
		r := source(purpose)
		buf := make([]byte, pageSize)
		for _, s := range spans {
			for off := s.off; off < s.off+s.length; off += pageSize {
				noise(r, buf)
				if _, err := f.WriteAt(buf, off); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// restore writes the content that another image holds.
func restore(image string, spans []span) func(*os.File) error {
	return func(f *os.File) error {
		from, err := os.Open(image)
		if err != nil {
			return err
		}
		defer from.Close()
		for _, s := range spans {
			if _, err := io.Copy(io.NewOffsetWriter(f, s.off), io.NewSectionReader(from, s.off, s.length)); err != nil {
				return err
			}
		}
		return nil
	}
}

// scattered picks n used blocks, evenly spread, and in each a place of so many bytes.
func scattered(used []int64, n int, length int64) []span {
	pick := rand.New(source("scattered"))
	n = min(n, len(used))
	var spans []span
	for i := range n {
		first, next := i*len(used)/n, (i+1)*len(used)/n
		block := used[first+pick.IntN(next-first)]
		spans = append(spans, span{block*manifest.BlockSize + pick.Int64N(manifest.BlockSize/length)*length, length})
	}
	return spans
}

// clustered picks runs of so many bytes until n blocks are picked, spread over the used part.
func clustered(used []int64, n int, length int64) []span {
	blocks := int(length / manifest.BlockSize)
	runs := max(1, min(n, len(used))/blocks)
	var spans []span
	for i := range runs {
		first := i * len(used) / runs
		for _, block := range used[first:min(first+blocks, (i+1)*len(used)/runs)] {
			spans = append(spans, span{block * manifest.BlockSize, manifest.BlockSize})
		}
	}
	return spans
}

// pages picks one page in so many of a file.
func pages(file []span, oneIn int) []span {
	var all []span
	for _, s := range file {
		for off := s.off; off < s.off+s.length; off += pageSize {
			all = append(all, span{off, pageSize})
		}
	}
	pick := rand.New(source("pages"))
	pick.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	all = all[:max(1, len(all)/oneIn)]
	slices.SortFunc(all, func(a, b span) int { return int((a.off - b.off) / pageSize) })
	return all
}
