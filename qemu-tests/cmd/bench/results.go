package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/dataset"
	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/peers"
	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/report"
)

// write leaves the results behind and prints the verdicts.
func (b *bench) write(ctx context.Context, machine []report.Fact) error {
	thin, err := peers.Thin(b.thin)
	if err != nil {
		return err
	}
	d := report.Document{
		Date: time.Now().UTC().Format(time.DateOnly), Commit: firstLine(ctx, "git", "describe", "--always", "--dirty"),
		Machine: append(machine, report.Fact{Name: "load at the end", Value: load()}), Workloads: b.about, Rows: b.rows, Loads: b.loads(),
		Checks: b.checks(thin), Failed: b.failed, Absent: absent,
		Data: append(b.data,
			report.Fact{Name: "repetitions", Value: fmt.Sprint(b.repeat)},
			report.Fact{Name: "caches", Value: map[bool]string{true: "dropped before each run", false: "not dropped: that needs root"}[b.caches == nil]},
			report.Fact{Name: "thin line", Value: b.thin + ": payload of TCP each way, and the round trip, by netproto/line"},
			report.Fact{Name: "ideal", Value: fmt.Sprintf("zstd level %q over blocks of 64 KiB, each by itself", dataset.Level)},
			report.Fact{Name: "wire bytes", Value: "understudy counts at its sockets, TLS included; of the others the line counts, or a loopback device of their own, with headers of TCP and IP"},
			report.Fact{Name: "peak RSS", Value: "of the tool's largest process"},
		),
	}
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	size := func(r report.Row) int64 { return b.sizes[r.Case] }
	err = errors.Join(
		create(b.out, "results.json", func(w io.Writer) error { return report.WriteJSON(w, b.rows) }),
		create(b.out, "results.md", func(w io.Writer) error { return report.WriteMarkdown(w, d) }),
		create(b.out, "throughput.svg", report.Throughput(b.rows, size).Write),
		create(b.out, "wire.svg", report.Wire(b.rows).Write),
	)
	for _, c := range d.Checks {
		if !c.OK() {
			fmt.Printf("✗ %s: %.2f, allowed %.2f\n", c.What, c.Value, c.Budget)
		}
	}
	fmt.Printf("%d budgets; the whole is in %s\n", len(d.Checks), filepath.Join(b.out, "results.md"))
	return err
}

func (b *bench) loads() []report.Load {
	var loads []report.Load
	for _, c := range report.Cases(b.rows) {
		i := b.ideals[c.Name]
		ours, _ := c.Tool(report.Understudy)
		loads = append(loads, report.Load{Case: c.Name, Differing: i.Differing, Copies: i.Copies, Raw: i.Raw, Compressed: i.Compressed,
			Parts: i.Parts, PartsCompressed: i.PartsCompressed, Sent: ours.WireBytes})
	}
	return loads
}

func create(dir, name string, write func(io.Writer) error) error {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o644)
}

// facts describes the machine. What it does not tell is left out.
func facts(ctx context.Context, o options) []report.Fact {
	all := []report.Fact{
		{Name: "processor", Value: fmt.Sprintf("%s, %d threads", valueIn("/proc/cpuinfo", "model name"), runtime.NumCPU())},
		{Name: "memory", Value: valueIn("/proc/meminfo", "MemTotal")},
		{Name: "kernel", Value: firstLine(ctx, "uname", "-sr")},
		{Name: "system", Value: strings.Trim(valueIn("/etc/os-release", "PRETTY_NAME"), `"`)},
		{Name: "disk", Value: lastLine(ctx, "findmnt", "-n", "-o", "SOURCE,FSTYPE,OPTIONS", "-T", o.dir)},
		{Name: "go", Value: runtime.Version()},
		{Name: "rsync", Value: firstLine(ctx, "rsync", "--version")},
		{Name: "nbdcopy", Value: firstLine(ctx, "nbdcopy", "--version")},
		{Name: "nbdkit", Value: firstLine(ctx, "nbdkit", "--version")},
		{Name: "qemu-img", Value: firstLine(ctx, "qemu-img", "--version")},
		{Name: "load at the beginning", Value: load()},
	}
	var told []report.Fact
	for _, f := range all {
		if f.Value != "" {
			told = append(told, f)
		}
	}
	return told
}

// valueIn returns what stands behind a key and a colon or equals sign.
func valueIn(path, key string) string {
	text, _ := os.ReadFile(path) // nothing is told then
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			return strings.TrimSpace(strings.TrimLeft(rest, " \t:="))
		}
	}
	return ""
}

func load() string {
	text, _ := os.ReadFile("/proc/loadavg")
	return strings.Join(strings.Fields(string(text))[:min(3, len(strings.Fields(string(text))))], " ")
}

func firstLine(ctx context.Context, name string, args ...string) string {
	out, _ := exec.CommandContext(ctx, name, args...).Output()
	first, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(first)
}

func lastLine(ctx context.Context, name string, args ...string) string {
	out, _ := exec.CommandContext(ctx, name, args...).Output()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(strings.Fields(lines[len(lines)-1]), " ")
}
