package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/understudy-dr/understudy/manifest"
)

// Budgets of this stage of the engine.
const (
	maxCompare    = 1.3                 // × a plain direct read of what must be read
	maxRSS        = 96 << 20            // bytes, one end's process
	maxWireATiB   = 64 << 10            // bytes, unchanged and trusted
	wireAnExtent  = 40                  // bytes, unchanged and untrusted
	extentsATiB   = 1 << 40 / (4 << 20) // of 4 MiB
	changedShare  = 100                 // one block in so many is changed
	smallDiskSize = manifest.ExtentSize // shows the wire's fixed part
)

func main() {
	size := flag.Int64("size", 8<<30, "size of the disk in bytes")
	dir := flag.String("dir", "build/bench", "folder for the disks; needs twice the size, and direct I/O")
	runs := flag.Int("runs", 3, "how often each case is measured, each time after a plain read; the median ratio counts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir, *size, *runs); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// bench holds the folder, the program under test and the disks.
type bench struct {
	program        string
	dir            string
	source, target string
	size           int64
	runs           int
}

// row is one measured case.
type row struct {
	name string
	measured
	base float64 // seconds of the plain read that it is held against; 0 without
}

func (r row) ratio() float64 { return r.Wall / r.base }

func run(ctx context.Context, dir string, size int64, runs int) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b := &bench{program: filepath.Join(dir, "understudy"), dir: dir, source: filepath.Join(dir, "source.raw"), target: filepath.Join(dir, "target.raw"), size: size, runs: runs}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", b.program, "./cmd/understudy")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the program under test: %w", err)
	}
	fmt.Printf("preparing two disks of %d MiB in %s\n", size>>20, dir)
	if err := b.prepare(ctx); err != nil {
		return err
	}
	rows, err := b.measureAll(ctx)
	if err != nil {
		return err
	}
	return b.report(rows)
}

// measureAll runs every case. Between cases both disks are equal again.
func (b *bench) measureAll(ctx context.Context) ([]row, error) {
	var rows []row
	for _, c := range []struct {
		name   string
		trust  bool
		change func() error
	}{
		{name: "unchanged, trusted", trust: true},
		{name: "unchanged, untrusted"},
		{name: "1 % changed, trusted", trust: true, change: b.change},
		{name: "1 % changed, untrusted", change: b.change},
		{name: "full copy", change: b.clear},
	} {
		fmt.Println("measuring:", c.name)
		must := []string{b.source}
		if !c.trust {
			must = append(must, b.target)
		}
		r, err := b.median(ctx, must, func() (measured, error) { return b.understudy(ctx, c.trust, c.change) })
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		r.name = c.name
		rows = append(rows, r)
	}
	for _, c := range []struct {
		name   string
		change func() error
	}{{"rsync, 1 % changed", b.change}, {"rsync, full copy", b.clear}} {
		fmt.Println("measuring:", c.name)
		m, err := b.rsync(ctx, c.change)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		rows = append(rows, row{name: c.name, measured: m})
	}
	return rows, nil
}

// median measures several times, each time right after a plain read of what must
// be read, and returns the pair with the median ratio: a machine whose speed
// drifts changes both alike.
func (b *bench) median(ctx context.Context, must []string, measure func() (measured, error)) (row, error) {
	var all []row
	for range b.runs {
		// The first read is for caches below this machine, which direct I/O
		// does not pass: without it the run would find them warmed by the read
		// that it is held against.
		_, cold := b.plainRead(ctx, must...)
		plain, err := b.plainRead(ctx, must...)
		if err := errors.Join(cold, err); err != nil {
			return row{}, err
		}
		m, err := measure()
		if err := errors.Join(err, ctx.Err()); err != nil {
			return row{}, err
		}
		all = append(all, row{measured: m, base: plain})
	}
	slices.SortFunc(all, func(x, y row) int { return cmp.Compare(x.ratio(), y.ratio()) })
	return all[len(all)/2], nil
}

// report prints the table and the verdict on each budget.
func (b *bench) report(rows []row) error {
	w := table.NewWriter()
	w.SetOutputMirror(os.Stdout)
	w.AppendHeader(table.Row{"case", "wall s", "plain read s", "× plain read", "MiB/s", "cpu s", "peak RSS MiB", "read MiB", "wire bytes"})
	by := make(map[string]row)
	for _, r := range rows {
		by[r.name] = r
		plain, ratio := "–", "–"
		if r.base > 0 {
			plain, ratio = fmt.Sprintf("%.2f", r.base), fmt.Sprintf("%.2f", r.ratio())
		}
		w.AppendRow(table.Row{r.name, fmt.Sprintf("%.2f", r.Wall), plain, ratio, int(float64(b.size>>20) / r.Wall), fmt.Sprintf("%.2f", r.CPU),
			fmt.Sprintf("%.1f", float64(r.PeakRSS)/(1<<20)), r.ReadBytes >> 20, r.WireBytes})
	}
	w.Render()

	trusted, untrusted := by["unchanged, trusted"], by["unchanged, untrusted"]
	extents := (b.size + manifest.ExtentSize - 1) / manifest.ExtentSize
	growth := func(wire, fixed int64, per float64) float64 { return float64(wire-fixed) / float64(extents-1) * per }
	fixed, err := b.fixedWire()
	if err != nil {
		return err
	}
	verdicts := []struct {
		what        string
		value, most float64
	}{
		{"unchanged, trusted: × plain read of the source", trusted.ratio(), maxCompare},
		{"unchanged, untrusted: × plain read of both", untrusted.ratio(), maxCompare},
		{"peak RSS of either end, trusted, MiB", float64(trusted.PeakRSS) / (1 << 20), maxRSS >> 20},
		{"peak RSS of either end, untrusted, MiB", float64(untrusted.PeakRSS) / (1 << 20), maxRSS >> 20},
		{"peak RSS of either end, full copy, MiB", float64(by["full copy"].PeakRSS) / (1 << 20), maxRSS >> 20},
		{fmt.Sprintf("unchanged, trusted: wire bytes a TiB, beyond the %d of a connection", fixed[0]), growth(trusted.WireBytes, fixed[0], extentsATiB), maxWireATiB},
		{fmt.Sprintf("unchanged, untrusted: wire bytes an extent, beyond the %d of a connection", fixed[1]), growth(untrusted.WireBytes, fixed[1], 1), wireAnExtent},
	}
	var missed error
	for _, v := range verdicts {
		verdict := "ok"
		if v.value > v.most {
			verdict = "MISSED"
			missed = errors.New("a budget is missed; measure again on an idle machine before you believe it")
		}
		fmt.Printf("%-6s %s: %.2f (budget %.2f)\n", verdict, v.what, v.value, v.most)
	}
	for _, kind := range []string{"1 % changed", "full copy"} {
		ours, theirs := by[kind], by["rsync, "+kind]
		if kind == "1 % changed" {
			ours = by["1 % changed, untrusted"]
			fmt.Printf("       %s, trusted: %.2f × rsync's wall time\n", kind, by["1 % changed, trusted"].Wall/theirs.Wall)
		}
		fmt.Printf("       %s: %.2f × rsync's wall time\n", ours.name, ours.Wall/theirs.Wall)
	}
	return missed
}
