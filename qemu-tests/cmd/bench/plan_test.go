package main

import (
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/dataset"
	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/peers"
	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/report"
)

func thin(t *testing.T) peers.Line {
	t.Helper()
	l, err := peers.Thin("100mbit,100ms")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestPlanNamesCases(t *testing.T) {
	var names []string
	for _, w := range plan(thin(t)) {
		names = append(names, w.cases()...)
	}
	for _, want := range []string{"changed1/loopback", "changed1-trusted/loopback", "changed1/100mbit-100ms", "db-trusted/100mbit-100ms", "changed100/loopback"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not measured", want)
		}
	}
	if slices.Sort(names); len(slices.Compact(names)) != 28 {
		t.Errorf("%d cases: %v", len(names), names)
	}
}

func TestAllowed(t *testing.T) {
	for _, c := range []struct {
		workload, tool string
		want           float64 // 0: no budget
	}{
		{"unchanged/loopback", report.Limit, 1.15},
		{"unchanged-trusted/loopback", report.Limit, 1.15},
		{"unchanged/100mbit-100ms", report.Limit, 0},
		{"changed1-trusted/loopback", "rsync", 0.55},
		{"changed1-clustered/loopback", "rsync", 1.05},
		{"db/loopback", "rsync", 1},
		{"changed100/loopback", "rsync", 1 / 3.0},
		{"changed100/loopback", "nbdcopy-tls", 1 / 1.8},
		{"changed100/loopback", "nbdcopy", 1 / 0.9},
		{"changed100/loopback", "dd", 0},
		{"db/100mbit-100ms", "rsync-z", 1},
	} {
		got := allowed(report.Row{Case: c.workload, Tool: c.tool, SameWork: c.tool == "rsync" || c.tool == "rsync-z"})
		if (got == nil) != (c.want == 0) || (got != nil && *got != c.want) {
			t.Errorf("%s in %s: %v, not %v", c.tool, c.workload, got, c.want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "8G": 8 << 30, "512MiB": 512 << 20, "100K": 64 << 10, "65536": 65536, "1g": 1 << 30} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"large", "-1G", "9999999T"} {
		if n, err := parseSize(text); err == nil {
			t.Errorf("%q is %d", text, n)
		}
	}
}

// A peer knows nothing of trust: one measurement stands in both cases. What failed stands in none.
func TestCollect(t *testing.T) {
	w := workload{name: "db", line: peers.Loopback(), trust: true}
	plain, trusted := w.cases()[0], w.cases()[1]
	limit, ours, rsync := peers.Limit("bench"), peers.Understudy("understudy"), peers.Rsync("rsync")
	entries := []*entry{
		{tool: limit, cases: []string{plain}, rows: []report.Row{{Tool: limit.Name, Wall: 2}}},
		{tool: ours, cases: []string{plain}, rows: []report.Row{{Tool: ours.Name, Wall: 3}, {Tool: ours.Name, Wall: 1}, {Tool: ours.Name, Wall: 2}}},
		{tool: limit, trust: true, cases: []string{trusted}, rows: []report.Row{{Tool: limit.Name, Wall: 1}}},
		{tool: ours, trust: true, cases: []string{trusted}},
		{tool: rsync, cases: w.cases(), rows: []report.Row{{Tool: rsync.Name, Wall: 5, SameWork: true}}},
	}
	b := &bench{}
	b.collect(w, dataset.Ideal{Raw: 77}, entries)
	var got []string
	for _, r := range b.rows {
		got = append(got, r.Case+" "+r.Tool)
	}
	want := []string{plain + " limit", plain + " understudy", plain + " rsync", trusted + " limit", trusted + " rsync"}
	if !slices.Equal(got, want) {
		t.Fatalf("rows %v", got)
	}
	if b.rows[0].WireBytes != 77 || b.rows[1].Wall != 2 || b.rows[4].Allowed == nil {
		t.Errorf("rows %+v", b.rows)
	}
}

// The limit of a thin line is the line.
func TestLimitOfTheLine(t *testing.T) {
	ideal := dataset.Ideal{Raw: 100 << 20, Compressed: 50_000_000, Parts: 50 << 20, PartsCompressed: 25_000_000}
	row := report.Row{Wall: 0.5}
	limitOf(&row, thin(t), ideal)
	if row.WireBytes != 25_000_000 || row.Wall != 2.2 {
		t.Errorf("thin: %+v", row)
	}
	row = report.Row{Wall: 0.5}
	limitOf(&row, peers.Loopback(), ideal)
	if row.WireBytes != 100<<20 || row.Wall != 0.5 {
		t.Errorf("loopback: %+v", row)
	}
}

func TestWireBudgets(t *testing.T) {
	const mib = 1 << 20
	row := func(name string, wire int64) report.Row {
		return report.Row{Case: name, Tool: report.Understudy, Wall: 1, WireBytes: wire}
	}
	for _, c := range []struct {
		row  report.Row
		want bool
	}{
		{row("unchanged/loopback", 1000+255*40), true},
		{row("unchanged/loopback", 1000+256*40), false},
		{row("unchanged-trusted/loopback", 1000+50), true},
		{row("unchanged-trusted/loopback", 1000+100), false},
		{row("db/loopback", 8*mib+20_000), true},
		{row("db/loopback", 8*mib+100_000), false},
		{row("db/100mbit-100ms", 1_100_000), true},
		{row("db/100mbit-100ms", 1_150_000), false},
		{row("changed10/100mbit-100ms", 6_030_000), true},
		{row("changed10/100mbit-100ms", 6_100_000), false},
	} {
		ideal := dataset.Ideal{Extents: 10, Raw: 8 * mib, Compressed: 6_000_000, Parts: 2 * mib, PartsCompressed: 1_000_000}
		if c.row.Workload() == "changed10" {
			ideal.Parts, ideal.PartsCompressed = ideal.Raw, ideal.Compressed
		}
		b := &bench{rows: []report.Row{c.row}, ideals: map[string]dataset.Ideal{c.row.Case: ideal}, sizes: map[string]int64{c.row.Case: 1 << 30},
			fixed: map[string]int64{fixedKey("loopback", false): 1000, fixedKey("loopback", true): 1000, fixedKey("100mbit-100ms", false): 1000}}
		if check := b.wireCheck(c.row); check.OK() != c.want {
			t.Errorf("%s with %d bytes: %+v", c.row.Case, c.row.WireBytes, check)
		}
	}
}
