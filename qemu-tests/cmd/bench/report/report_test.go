package report_test

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/report"
)

func rows() []report.Row {
	return []report.Row{
		{Case: "db/loopback", Tool: report.Limit, Wall: 1, WireBytes: 1000, Allowed: new(1.2)},
		{Case: "db/loopback", Tool: report.Understudy, Wall: 1.1, WireBytes: 1500, SameWork: true, Allowed: new(1.0)},
		{Case: "db/loopback", Tool: "rsync", Wall: 0.5, WireBytes: 4000, SameWork: true, Allowed: new(1.05), Command: "rsync a b", Note: "a|b"},
		{Case: "db/loopback", Tool: "dd", Wall: 4},
		{Case: "moved/100mbit-100ms", Tool: report.Understudy, Wall: 2, WireBytes: 10},
	}
}

func TestMedianIsOneWholeRow(t *testing.T) {
	m := report.Median([]report.Row{{Wall: 3, CPU: 30}, {Wall: 1, CPU: 10}, {Wall: 2, CPU: 20, Note: "x"}})
	if m.Wall != 2 || m.CPU != 20 || m.Note != "x; median of 3, 1.00–3.00 s" {
		t.Errorf("median %+v", m)
	}
	if m := report.Median([]report.Row{{Wall: 2}, {Wall: 1}}); m.Wall != 2 {
		t.Errorf("the faster of two counts: %v", m.Wall)
	}
}

func TestJSONHasTheColumns(t *testing.T) {
	var b strings.Builder
	if err := report.WriteJSON(&b, rows()); err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatal(err)
	}
	want := []string{"allowed", "case", "command", "cpu_s", "note", "peak_rss_bytes", "read_bytes", "same_work", "tool", "wall_s", "wire_bytes"}
	for _, row := range got {
		if keys := slices.Sorted(maps.Keys(row)); !slices.Equal(keys, want) {
			t.Errorf("columns %v", keys)
		}
	}
	if got[3]["allowed"] != nil || got[0]["allowed"] != 1.2 {
		t.Errorf("allowed of dd %v, of the limit %v", got[3]["allowed"], got[0]["allowed"])
	}
}

func TestRatiosLeaveOurselvesAndTheUnbudgetedOut(t *testing.T) {
	checks := report.Ratios(rows())
	if len(checks) != 2 {
		t.Fatalf("checks %+v", checks)
	}
	if !checks[0].OK() || checks[0].Value != 1.1 {
		t.Errorf("limit: %+v", checks[0])
	}
	if checks[1].OK() || checks[1].Value != 2.2 {
		t.Errorf("rsync: %+v", checks[1])
	}
	if (report.Check{Value: 0.9, Budget: 0.95, Least: true}).OK() || !(report.Check{Value: 0.95, Budget: 0.95, Least: true}).OK() {
		t.Error("the least is taken for the most")
	}
}

func TestMarkdownShowsWhatIsMissed(t *testing.T) {
	var b strings.Builder
	d := report.Document{Date: "2026-01-02", Rows: rows(), Checks: report.Ratios(rows()), Failed: []string{"dd: no such file"},
		Loads: []report.Load{{Case: "db/loopback", Differing: 7, Raw: 4096}}, Absent: []report.Fact{{Name: "zfs", Value: "not packaged"}}}
	if err := report.WriteMarkdown(&b, d); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{
		"**1 of 2 are missed.**",
		"| ✗ | db/loopback: wall ÷ rsync | 2.20 | ≤ 1.05 |",
		"| rsync | 0.50 | 2.20 | 1.05 | ✗ | 0 | 0 B | 0 B | 3.9 KiB | 4.00 | yes | a\\|b |",
		"| understudy | 1.10 |  |  |  | 0 | 0 B | 0 B | 1.5 KiB | 1.50 | yes |  |",
		"- dd: no such file",
		"- db/loopback, rsync: `rsync a b`",
		"| db/loopback | 7 | 0 | 4.0 KiB |",
		"| zfs | not packaged |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "|") && !strings.HasSuffix(line, "|\n") {
			t.Errorf("a broken row: %q", line)
		}
	}
}

func TestPlotsAreDrawings(t *testing.T) {
	for _, p := range []report.Plot{report.Throughput(rows(), func(report.Row) int64 { return 1 << 30 }), report.Wire(rows()), {Title: "none <at> all"}} {
		var b strings.Builder
		if err := p.Write(&b); err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(strings.NewReader(b.String()))
		bars := 0
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v\n%s", p.Title, err, b.String())
			}
			if e, ok := token.(xml.StartElement); ok && e.Name.Local == "title" {
				bars++
			}
		}
		want := 0
		for _, g := range p.Groups {
			want += len(g.Bars)
		}
		if bars != want {
			t.Errorf("%s: %d bars are drawn, not %d", p.Title, bars, want)
		}
	}
	// dd sent nothing: a logarithm has no place for it.
	if g := report.Wire(rows()).Groups[0]; len(g.Bars) != 3 {
		t.Errorf("bars of the wire: %+v", g.Bars)
	}
}
