package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// golden compares what a rendering writes with a file of testdata/golden.
func golden(t *testing.T, name string, write func(w *strings.Builder)) {
	t.Helper()
	local := time.Local
	time.Local = time.UTC // as people would read it there
	defer func() { time.Local = local }()
	var got strings.Builder
	write(&got)
	want, err := os.ReadFile(filepath.Join("testdata", "golden", name))
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s\nthe whole:\n%s", name, diff, got.String())
	}
}

var (
	evening = time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)
	webVM   = report.VM{UUID: "2f0c7d7a-6d0e-4ef4-8d2b-6cbb6c6a3a01", Name: "web-1", Pool: "east", PoolUUID: "e"}
	mailVM  = report.VM{UUID: "9d0b1c52-1111-4a59-a9a4-0f4c2b8f6b77", Name: "mail", Pool: "east", PoolUUID: "e"}
)

func lastNight() report.JobRun {
	return report.JobRun{
		ID: "7d7f2b0e-3c57-4f0a-9d55-0f6a3d5f9a10", Job: "j", JobName: "nightly", Started: evening, Finished: evening.Add(5 * time.Minute),
		State: report.StateFailed, Error: "1 of 2 VMs was not committed",
		VMs: []report.JobVM{
			{VM: webVM, Run: "r1", State: report.StateCommitted},
			{VM: mailVM, State: report.StateFailed, Error: "no free address"},
		},
		Findings: []report.Finding{{Severity: report.SeverityWarning, Code: "selector-empty", Subject: "tag:gold", Cause: "it chooses no VM", Mend: "remove it"}},
	}
}

func TestRenderings(t *testing.T) {
	definition := fullJob()
	document := jobDocument{ID: "j", Name: "nightly", Enabled: true, Created: evening, Updated: evening, Definition: definition}
	poolName := func(uuid string) string { return "<" + uuid + ">" }
	last := lastNight()

	golden(t, "job-show.txt", func(w *strings.Builder) {
		replica := replication.Info{
			Replica: report.VM{Name: "web-1-dr"}, Standing: replication.StandingDiverged, Cause: "it was started", LastCommit: evening, RestorePoints: 3,
		}
		shown := jobShown{jobDocument: document, LastRun: &last, VMs: []chosenVM{{VM: webVM, Replica: &replica}, {VM: mailVM}}}
		shown.write(w, poolName, evening.Add(50*time.Hour))
	})
	golden(t, "job-show-plain.txt", func(w *strings.Builder) {
		plain := document
		plain.Enabled, plain.Definition = false, plainJob()
		jobShown{jobDocument: plain}.write(w, poolName, evening)
	})
	golden(t, "job-list.txt", func(w *strings.Builder) {
		line := lineOfJob(last)
		ran := jobLine{jobDocument: document, LastRun: &line, OldestCommit: evening, from: "east", to: "west"}
		never := ran
		never.Name, never.OldestCommit = "weekly", time.Time{}
		unborn := jobLine{jobDocument: jobDocument{Name: "new", Definition: definition}, from: "east", to: "west"}
		writeJobLines(w, []jobLine{ran, never, unborn}, evening.Add(90*time.Minute))
	})
	golden(t, "job-check.txt", func(w *strings.Builder) {
		full := report.Finding{Severity: report.SeverityError, Code: "space", Subject: "SR backup", Cause: "10 GiB are needed and 2 GiB are free", Mend: "free some"}
		d := jobCheckDocument{Job: "nightly", Findings: last.Findings, VMs: []vmCheckDocument{{VM: mailVM, Findings: []report.Finding{full}}}}
		d.write(w)
	})
	golden(t, "run-show.txt", func(w *strings.Builder) {
		disk := report.Disk{Disk: "0", LogicalSize: 4 << 30, Counters: report.Counters{Read: 4 << 30, Sent: 1 << 30, Same: 3 << 30, Wire: 1 << 29}}
		runs := []report.Run{{ID: "r1", Started: evening, Finished: evening.Add(12 * time.Second), Disks: []report.Disk{disk}}}
		recorded{job: &state.JobRun{Report: last}, runs: runs}.write(w)
	})
	golden(t, "run-list.txt", func(w *strings.Builder) {
		single := lineOfVM(state.Run{Kind: state.RunVerify, Report: report.Run{ID: "r2", State: report.StateRunning, Started: evening, VM: webVM}})
		writeRunLines(w, []runLine{lineOfJob(last), single})
	})
}

func TestTheEndOfARunIsThatOfItsWatcher(t *testing.T) {
	for end, want := range map[report.State]int{
		report.StateCommitted: exitOK, report.StateFailed: exitFailed, report.StateInterrupted: exitFailed, report.StateCancelled: exitCancelled,
	} {
		r := lastNight()
		r.State = end
		if got := exitCode(errors.Join(recorded{job: &state.JobRun{Report: r}}.failure(), nil)); got != want {
			t.Errorf("a run of a job that ends %s: exit code %d, want %d", end, got, want)
		}
		if got := exitCode(recorded{vm: &state.Run{Report: report.Run{State: end}}}.failure()); got != want {
			t.Errorf("a run that ends %s: exit code %d, want %d", end, got, want)
		}
	}
}

func TestTheOldestCommitIsThatOfTheWorstVM(t *testing.T) {
	d := plainJob()
	replica := func(vm report.VM, target string, commit time.Time) state.Replica {
		return state.Replica{SourcePool: "east", TargetPool: target, SourceVM: vm.UUID, LastCommit: commit}
	}
	both := []report.JobVM{{VM: webVM}, {VM: mailVM}}
	early, late := evening, evening.Add(time.Hour)
	for name, c := range map[string]struct {
		replicas []state.Replica
		want     time.Time
	}{
		"the older":            {[]state.Replica{replica(webVM, "west", late), replica(mailVM, "west", early)}, early},
		"one without":          {[]state.Replica{replica(webVM, "west", late)}, time.Time{}},
		"one never committed":  {[]state.Replica{replica(webVM, "west", late), replica(mailVM, "west", time.Time{})}, time.Time{}},
		"one in another place": {[]state.Replica{replica(webVM, "west", late), replica(mailVM, "west", late), replica(mailVM, "south", early)}, late},
	} {
		if got := oldestCommit(d, both, c.replicas); !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
