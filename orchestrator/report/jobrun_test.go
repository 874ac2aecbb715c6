package report_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/orchestrator/report"
)

func sampleJobRun() report.JobRun {
	vmRun := sample()
	return report.JobRun{
		ID: "0a6f8f7e-0c1d-4f39-9c3e-6a0f0f7d9b01", Job: "1b6f8f7e-0c1d-4f39-9c3e-6a0f0f7d9b02", JobName: "nightly",
		Started: vmRun.Started, Finished: vmRun.Finished.Add(time.Minute), State: report.StateFailed,
		VMs: []report.JobVM{
			{VM: vmRun.VM, Run: vmRun.ID, State: report.StateCommitted},
			{VM: report.VM{UUID: "u-2", Name: "mail", Pool: "a", PoolUUID: "p"}, State: report.StateFailed, Error: "no free address"},
		},
		Findings: []report.Finding{{Severity: report.SeverityWarning, Code: "selector-empty", Subject: "tag:gold", Cause: "no VM has it", Mend: "give it to one"}},
		Error:    "1 of 2 VMs was not replicated",
	}
}

func TestJobTable(t *testing.T) {
	var out bytes.Buffer
	if err := report.WriteJobTable(&out, report.JobRows(sampleJobRun(), []report.Run{sample()})); err != nil {
		t.Fatal(err)
	}
	golden(t, "jobtable.txt", out.Bytes())
}

func TestJobRunJSON(t *testing.T) {
	out, err := json.MarshalIndent(sampleJobRun(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "jobrun.json", append(out, '\n'))
	var back report.JobRun
	if err := json.Unmarshal(out, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sampleJobRun(), back); diff != "" {
		t.Errorf("the JSON form loses something (-want +got):\n%s", diff)
	}
}

func TestJobRunValidate(t *testing.T) {
	if err := sampleJobRun().Validate(); err != nil {
		t.Fatalf("a good report is refused: %v", err)
	}
	cases := map[string]struct {
		spoil func(*report.JobRun)
		want  string
	}{
		"id":         {func(r *report.JobRun) { r.ID = "" }, "without an id"},
		"job":        {func(r *report.JobRun) { r.Job = "" }, "of no job"},
		"state":      {func(r *report.JobRun) { r.State = report.StateWaiting }, "unknown state"},
		"unfinished": {func(r *report.JobRun) { r.Finished = time.Time{} }, "does not fit"},
		"vm":         {func(r *report.JobRun) { r.VMs[0].VM.UUID = "" }, "without uuid"},
		"vm state":   {func(r *report.JobRun) { r.VMs[0].State = "great" }, "unknown state"},
		"waiting":    {func(r *report.JobRun) { r.VMs[1].State = report.StateWaiting }, "is waiting"},
		"severity":   {func(r *report.JobRun) { r.Findings[0].Severity = "" }, "severity"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			run := sampleJobRun()
			c.spoil(&run)
			if err := run.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one that names %q", err, c.want)
			}
		})
	}
}

func TestJobRunValues(t *testing.T) {
	run := sampleJobRun()
	copied := run.Clone()
	if got := run.Uncommitted(); !slices.Equal(got, []string{"u-2"}) {
		t.Errorf("not committed: %v", got)
	}
	if report.Errors(run.Findings) {
		t.Error("a warning counts as an error")
	}
	run.VMs[0].State, run.Findings[0].Severity = report.StateRunning, report.SeverityError
	if !report.Errors(run.Findings) {
		t.Error("an error does not count as one")
	}
	if diff := cmp.Diff(sampleJobRun(), copied); diff != "" {
		t.Errorf("the clone changed with the original (-want +got):\n%s", diff)
	}
}
