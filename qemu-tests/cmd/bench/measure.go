package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/dataset"
	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/peers"
	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/report"
)

// bench is one run of this program.
type bench struct {
	options
	self, program string

	rows   []report.Row
	ideals map[string]dataset.Ideal // by case
	sizes  map[string]int64         // of the disk, by case, in bytes
	fixed  map[string]int64         // wire bytes of a connection, by line and trust
	about  []report.Fact            // the workloads
	data   []report.Fact
	failed []string
	caches error // why caches were not dropped
}

// measureAll builds the disks of one line after the other, since both would take room, and measures.
func (b *bench) measureAll(ctx context.Context) error {
	thin, err := peers.Thin(b.thin)
	if err != nil {
		return err
	}
	b.ideals, b.sizes, b.fixed = make(map[string]dataset.Ideal), make(map[string]int64), make(map[string]int64)
	for _, line := range []struct {
		peers.Line
		size int64
	}{{peers.Loopback(), b.size}, {thin, b.thinSize}} {
		wanted := slices.DeleteFunc(plan(thin), func(w workload) bool {
			return w.line.Name != line.Name || !slices.ContainsFunc(w.cases(), b.only.MatchString)
		})
		if len(wanted) == 0 {
			continue
		}
		if err := b.measureLine(ctx, line.Line, line.size, wanted); err != nil {
			return err
		}
	}
	if len(b.rows)+len(b.failed) == 0 {
		return errors.New("-cases matches no case")
	}
	return nil
}

func (b *bench) measureLine(ctx context.Context, line peers.Line, size int64, wanted []workload) (err error) {
	fmt.Printf("making disks of %s for %s\n", humanize.IBytes(uint64(size)), line.Name)
	set, err := dataset.Build(ctx, filepath.Join(b.dir, line.Name), size, b.roots)
	if err != nil {
		return fmt.Errorf("make the disks: %w", err)
	}
	defer func() { err = errors.Join(err, set.Remove()) }()
	b.data = append(b.data, report.Fact{Name: "disks, " + line.Name, Value: fmt.Sprintf("ext4 of %s, of it %s files of this machine, a database and a film of %s each",
		humanize.IBytes(uint64(size)), humanize.IBytes(uint64(set.TreeBytes)), humanize.IBytes(uint64(size/16)))})
	for _, trust := range []bool{false, true} {
		if err := b.fixedWire(ctx, set.Dir, line, trust); err != nil {
			return err
		}
	}
	for _, w := range wanted {
		work, err := set.Workload(w.name)
		if err != nil {
			return err
		}
		if err := b.measure(ctx, w, work); err != nil {
			return fmt.Errorf("%s/%s: %w", w.name, w.line.Name, err)
		}
		if !slices.ContainsFunc(b.about, func(f report.Fact) bool { return f.Name == work.Name }) {
			b.about = append(b.about, report.Fact{Name: work.Name, Value: work.About})
		}
	}
	return nil
}

// entry is one tool in the rounds of a workload.
type entry struct {
	tool  peers.Tool
	trust bool
	cases []string // in which its row stands
	rows  []report.Row
	err   error // a tool that failed is not run again
}

func (b *bench) measure(ctx context.Context, w workload, work *dataset.Workload) error {
	if err := work.Prepare(); err != nil {
		return err
	}
	ideal, err := work.Ideal(ctx)
	if err != nil {
		return fmt.Errorf("the least that must be sent: %w", err)
	}
	var entries []*entry
	for i, name := range w.cases() {
		b.ideals[name], b.sizes[name] = ideal, work.Size
		for _, tool := range []peers.Tool{peers.Limit(b.self), peers.Understudy(b.program)} {
			entries = append(entries, &entry{tool: tool, trust: i > 0, cases: []string{name}})
		}
	}
	for _, tool := range w.peers {
		entries = append(entries, &entry{tool: tool, cases: w.cases()})
	}
	// What lies below this machine may have a cache too, which a first reading fills for all alike.
	if _, err := entries[0].tool.Run(ctx, job(w, work, false)); err != nil {
		return err
	}
	work.Untouched()
	for round := range b.repeat {
		// A disk remembers what ran before, in caches of its own or as credit for a burst: no tool shall always follow the same one.
		for _, i := range rand.New(rand.NewPCG(uint64(round), 0)).Perm(len(entries)) {
			e := entries[i]
			if e.err != nil {
				continue
			}
			if e.err = b.once(ctx, e, w, work, round == 0); e.err != nil {
				b.failed = append(b.failed, fmt.Sprintf("%s: %v", e.cases[0], e.err))
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
	}
	b.collect(w, ideal, entries)
	return nil
}

// once prepares the target and runs a tool.
func (b *bench) once(ctx context.Context, e *entry, w workload, work *dataset.Workload, prove bool) error {
	if err := work.Prepare(); err != nil {
		return err
	}
	if err := peers.DropCaches(); errors.Is(err, peers.ErrNotRoot) {
		b.caches = err
	} else if err != nil {
		return err
	}
	row, err := e.tool.Run(ctx, job(w, work, e.trust))
	if err != nil {
		return err
	}
	e.rows = append(e.rows, row)
	fmt.Printf("%s  %-36s %-12s %8.2f s %12d wire bytes\n", time.Now().Format(time.TimeOnly), e.cases[0], e.tool.Name, row.Wall, row.WireBytes)
	if e.tool.Name == report.Limit {
		work.Untouched()
		return nil
	}
	if prove {
		if err := work.Verify(ctx); err != nil {
			return fmt.Errorf("%s has left a wrong target: %w", e.tool.Name, err)
		}
	}
	work.Done()
	return nil
}

func job(w workload, work *dataset.Workload, trust bool) peers.Job {
	return peers.Job{Dir: work.Dir(), Source: work.Source(), Target: work.Target(), Trust: trust, FullCopy: work.FullCopy(), Line: w.line}
}

// collect adds the medians to the rows, case by case.
func (b *bench) collect(w workload, ideal dataset.Ideal, entries []*entry) {
	for _, name := range w.cases() {
		for _, e := range entries {
			if len(e.rows) == 0 || !slices.Contains(e.cases, name) {
				continue
			}
			row := report.Median(e.rows)
			row.Case = name
			if e.tool.Name == report.Limit {
				limitOf(&row, w.line, ideal)
			}
			if len(e.cases) > 1 {
				row.Note += "; one measurement for " + strings.Join(e.cases, " and ")
			}
			if b.caches != nil {
				row.Note += "; " + b.caches.Error()
			}
			row.Allowed = allowed(row)
			b.rows = append(b.rows, row)
		}
	}
}

// limitOf completes the limit's row with what must pass the line, and how long that takes.
func limitOf(row *report.Row, line peers.Line, ideal dataset.Ideal) {
	row.WireBytes = ideal.Raw
	what := "the wire bytes are those of the blocks that differ, are not zero and are held nowhere in the target"
	if line.Flag != "" {
		row.WireBytes = min(ideal.Compressed, ideal.PartsCompressed)
		what = "the wire bytes are zstd's, block by block, of their 4 KiB parts that differ"
		// One round trip opens a connection, another one gets the last answer.
		passes := float64(row.WireBytes)/float64(max(line.Spec.Rate, 1)) + 2*line.Spec.RTT.Seconds()
		if line.Spec.Rate > 0 && passes > row.Wall {
			row.Wall = math.Round(passes*1e6) / 1e6
			what += "; the wall time is theirs on the line, computed"
		}
	}
	row.Note = "direct I/O at queue depth 16, nothing compared; " + what + "; " + row.Note
}

// fixedWire measures what a connection costs with disks of one empty extent.
func (b *bench) fixedWire(ctx context.Context, dir string, line peers.Line, trust bool) error {
	j := peers.Job{Dir: dir, Source: "small-source.raw", Target: "small-target.raw", Trust: trust, Line: line}
	for _, name := range []string{j.Source, j.Target} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, manifest.ExtentSize), 0o600); err != nil {
			return err
		}
	}
	var bytes []int64 // one record of TLS more or less is chance, here as in what is compared with it
	for range b.repeat {
		row, err := peers.Understudy(b.program).Run(ctx, j)
		if err != nil {
			return err
		}
		bytes = append(bytes, row.WireBytes)
	}
	slices.Sort(bytes)
	b.fixed[fixedKey(line.Name, trust)] = bytes[len(bytes)/2]
	return nil
}

func fixedKey(line string, trust bool) string { return fmt.Sprint(line, trust) }
