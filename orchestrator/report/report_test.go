package report_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/orchestrator/report"
)

func sample() report.Run {
	start := time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)
	return report.Run{
		ID: "7d7f2b0e-3c57-4f0a-9d55-0f6a3d5f9a10", Started: start, Finished: start.Add(5 * time.Minute),
		State: report.StateCommitted, Direction: report.Push, Trust: report.TrustDestination,
		VM:      report.VM{UUID: "2f0c7d7a-6d0e-4ef4-8d2b-6cbb6c6a3a01", Name: "files", Pool: "a"},
		Replica: report.VM{UUID: "f5a3f1f4-94a1-4a59-a9a4-0f4c2b8f6b02", Name: "files (replica)", Pool: "b"},
		Disks: []report.Disk{
			{
				Disk: "0", LogicalSize: 4 << 30, State: report.DiskCommitted, Mode: report.Trusted, Rung: "disks",
				Cause: "every rung that can be tested holds", Untested: "empty-leaf",
				Counters: report.Counters{
					Read: 4 << 30, Same: 4<<30 - 96<<20, Zero: 16 << 20, Copied: 32 << 20, Sent: 44 << 20, Spared: 4 << 20, Wire: 21 << 20,
				},
				Duration: 4320 * time.Millisecond,
				Busy:     map[report.Stage]time.Duration{report.StageRead: 4 * time.Second, report.StageHash: 2 * time.Second},
				Root:     "00ff", Bottleneck: "source 93 % · hash 46 % · compress 3 % · line 9 % · target 3 %",
			},
			{
				Disk: "11", LogicalSize: 1 << 40, State: report.DiskCommitted, Mode: report.Untrusted, Rung: "database",
				Cause: "no commit is recorded", Counters: report.Counters{Read: 1 << 40, ReadTarget: 1 << 40, Same: 1 << 40, Wire: 10 << 20},
				Duration: 1267*time.Second + 400*time.Millisecond,
			},
			{Disk: "12", LogicalSize: 1000, State: report.DiskPending},
		},
		Delegates: []report.Delegate{
			{Side: "source", Pool: "a", Host: "a-1", Address: "10.0.0.20:7811", Dials: "10.0.1.20:7811"},
			{Side: "target", Pool: "b", Host: "b-1", Address: "10.0.1.20:7811"},
		},
		Phases:       []report.PhaseTime{{Phase: report.PhasePlan, Started: start, Finished: start.Add(time.Second)}},
		Events:       []report.Event{{Time: start, Cause: "manifest-lost", Text: "disk 11 has no manifest and is scanned"}},
		ControlBytes: 9 << 10,
	}
}

// golden compares got with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	want, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", name, diff)
	}
}

func TestTable(t *testing.T) {
	run := sample()
	rows := append(report.Rows("second, push", run), report.Rows("", run)[1])
	var out bytes.Buffer
	if err := report.WriteTable(&out, rows); err != nil {
		t.Fatal(err)
	}
	golden(t, "table.txt", out.Bytes())
}

func TestJSON(t *testing.T) {
	run := sample()
	out, err := json.MarshalIndent(run, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "run.json", append(out, '\n'))
	var back report.Run
	if err := json.Unmarshal(out, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(run, back); diff != "" {
		t.Errorf("the JSON form loses something (-want +got):\n%s", diff)
	}
}

func TestRows(t *testing.T) {
	rows := report.Rows("first", sample())
	if len(rows) != 3 {
		t.Fatalf("%d rows, want one a disk", len(rows))
	}
	if got, want := rows[1].Ratio, float64(1<<40)/float64(10<<20); got != want {
		t.Errorf("ratio %v, want size ÷ wire = %v", got, want)
	}
	if rows[2].Ratio != 0 {
		t.Errorf("ratio %v of a disk without bytes on the line", rows[2].Ratio)
	}
}

func TestValidate(t *testing.T) {
	if err := sample().Validate(); err != nil {
		t.Fatalf("a good report is refused: %v", err)
	}
	cases := map[string]struct {
		spoil func(*report.Run)
		want  string
	}{
		"id":         {func(r *report.Run) { r.ID = "" }, "without an id"},
		"state":      {func(r *report.Run) { r.State = "ok" }, `state "ok"`},
		"direction":  {func(r *report.Run) { r.Direction = "" }, "direction"},
		"trust":      {func(r *report.Run) { r.Trust = "maybe" }, "trust choice"},
		"unfinished": {func(r *report.Run) { r.Finished = time.Time{} }, "does not fit"},
		"running":    {func(r *report.Run) { r.State = report.StateRunning }, "does not fit"},
		"phase":      {func(r *report.Run) { r.Phases[0].Phase = "x" }, "phase"},
		"disk":       {func(r *report.Run) { r.Disks[0].Disk = "" }, "without a number"},
		"size":       {func(r *report.Run) { r.Disks[0].LogicalSize = -1 }, "negative"},
		"disk state": {func(r *report.Run) { r.Disks[1].State = "" }, "unknown state"},
		"mode":       {func(r *report.Run) { r.Disks[1].Mode = "half" }, "mode"},
		"stage":      {func(r *report.Run) { r.Disks[0].Busy["think"] = 1 }, "stage"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			run := sample()
			c.spoil(&run)
			if err := run.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one that names %q", err, c.want)
			}
		})
	}
}

func TestCloneSharesNothing(t *testing.T) {
	run := sample()
	copied := run.Clone()
	run.Disks[0].Sent = 1
	run.Disks[0].Busy[report.StageRead] = 1
	run.Phases[0].Phase = report.PhaseSpawn
	run.Events[0].Text = "changed"
	if diff := cmp.Diff(sample(), copied); diff != "" {
		t.Errorf("the clone changed with the original (-want +got):\n%s", diff)
	}
}

// TestAssumedIsTold: whoever reads the table sees that a root rests on what was not read.
func TestAssumedIsTold(t *testing.T) {
	run := sample()
	run.Disks = run.Disks[:1]
	run.Disks[0].Assumed, run.Disks[0].Hinted = 3<<30, 64<<10
	rows := report.Rows("hinted", run)
	var out bytes.Buffer
	if err := report.WriteTable(&out, rows); err != nil {
		t.Fatal(err)
	}
	if rows[0].Hinted != 64<<10 || !strings.Contains(out.String(), "run hinted: 3.0 GiB were not read but assumed") {
		t.Errorf("%+v\n%s", rows[0], out.String())
	}
}
