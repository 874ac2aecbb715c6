package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// runLine is one run of a list: a job's, or one of a single VM that no job began.
type runLine struct {
	ID        string       `json:"id"`
	Kind      string       `json:"kind"`          // job, or that of a VM run: replicate, verify, deploy, test
	Job       string       `json:"job,omitempty"` // its name
	VM        string       `json:"vm,omitempty"`  // its name
	State     report.State `json:"state"`
	Started   time.Time    `json:"started"`
	Finished  time.Time    `json:"finished,omitzero"`
	VMs       int          `json:"vms,omitempty"`       // of a job's run
	Committed int          `json:"committed,omitempty"` // VMs of a job's run
	Error     string       `json:"error,omitempty"`
}

const kindJob = "job"

// defaultRunLines is how many runs a list shows unless told.
const defaultRunLines = 50

func (a *app) runList() *cobra.Command {
	limit := defaultRunLines
	c := &cobra.Command{
		Use: "list [JOB]", Short: "List the newest runs, all of them or those of a job", Args: cobra.MaximumNArgs(1),
		Long: "Lists the runs of jobs, and those of single VMs that no job began. 'run show' lists the VM runs of a job's run.",
		RunE: func(c *cobra.Command, args []string) error {
			if limit < 1 {
				return usagef("--limit %d: it is 1 or more", limit)
			}
			store, err := a.open(c.Context())
			if err != nil {
				return err
			}
			defer store.Close() //nolint:errcheck // only read
			lines, err := runLines(c.Context(), store, append(args, "")[0], limit)
			if err != nil {
				return err
			}
			return a.print(lines, func(w *strings.Builder) { writeRunLines(w, lines) })
		},
	}
	c.Flags().IntVar(&limit, "limit", limit, "at most this `number` of runs")
	return c
}

// runLines lists the newest runs, the newest first; with a job's name or id only that job's.
func runLines(ctx context.Context, store *state.Store, job string, limit int) ([]runLine, error) {
	lines := []runLine{}
	if job != "" {
		known, err := store.Job(ctx, job)
		if err != nil {
			return nil, err
		}
		job = known.ID
	} else {
		runs, err := store.SingleRuns(ctx, limit)
		if err != nil {
			return nil, err
		}
		for _, r := range runs {
			lines = append(lines, lineOfVM(r))
		}
	}
	runs, err := store.JobRuns(ctx, job, limit)
	if err != nil {
		return nil, err
	}
	for _, r := range runs {
		lines = append(lines, lineOfJob(r.Report))
	}
	slices.SortStableFunc(lines, func(a, b runLine) int { return b.Started.Compare(a.Started) })
	return lines[:min(len(lines), limit)], nil
}

func lineOfVM(r state.Run) runLine {
	return runLine{
		ID: r.Report.ID, Kind: string(r.Kind), VM: cmp.Or(r.Report.VM.Name, r.Report.VM.UUID), State: r.Report.State,
		Started: r.Report.Started, Finished: r.Report.Finished, Error: r.Report.Error,
	}
}

func lineOfJob(r report.JobRun) runLine {
	return runLine{
		ID: r.ID, Kind: kindJob, Job: r.JobName, State: r.State, Started: r.Started, Finished: r.Finished,
		VMs: len(r.VMs), Committed: committed(r), Error: r.Error,
	}
}

// committed counts the VMs of a job's run that were.
func committed(r report.JobRun) (n int) {
	for _, vm := range r.VMs {
		if vm.State == report.StateCommitted {
			n++
		}
	}
	return n
}

func writeRunLines(w *strings.Builder, lines []runLine) {
	rows := make([][]string, len(lines))
	for i, l := range lines {
		what, vms := l.VM, "-"
		if l.Kind == kindJob {
			what, vms = l.Job, fmt.Sprintf("%d/%d", l.Committed, l.VMs)
		}
		rows[i] = []string{moment(l.Started), took(l.Started, l.Finished), l.Kind, dash(what), string(l.State), vms, l.ID}
	}
	printTable(w, []string{"STARTED", "TOOK", "KIND", "OF", "STATE", "VMS", "ID"}, rows)
}

// took is how long a run took; a dash stands for one that has not ended.
func took(started, finished time.Time) string {
	if finished.IsZero() {
		return "-"
	}
	return roughly(finished.Sub(started))
}

// roughly writes a duration with as much as people want to know of it.
func roughly(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d < 48*time.Hour:
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

func (a *app) runShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show the recorded report of a run, of a job or of a VM", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			store, err := a.open(c.Context())
			if err != nil {
				return err
			}
			defer store.Close() //nolint:errcheck // only read
			r, err := findRecorded(c.Context(), store, args[0])
			if err != nil {
				return err
			}
			return a.print(r.document(), r.write)
		},
	}
}

// recorded is the report of a run as the state database has it: of a job's run, or of a VM run.
type recorded struct {
	job  *state.JobRun
	runs []report.Run // of the job's VMs, as far as they have begun
	vm   *state.Run
}

// findRecorded reads a run of either kind by its id; ErrNotFound.
func findRecorded(ctx context.Context, store *state.Store, id string) (recorded, error) {
	ofJob, err := store.JobRun(ctx, id)
	if err == nil {
		runs, err := vmRuns(ctx, store, id)
		return recorded{job: &ofJob, runs: runs}, err
	}
	if !errors.Is(err, state.ErrNotFound) {
		return recorded{}, err
	}
	ofVM, err := store.Run(ctx, id)
	if errors.Is(err, state.ErrNotFound) {
		return recorded{}, fmt.Errorf("run %s: %w: 'understudy run list' shows the newest", id, state.ErrNotFound)
	}
	return recorded{vm: &ofVM}, err
}

// vmRuns reads the reports of the VM runs of a job's run.
func vmRuns(ctx context.Context, store *state.Store, jobRun string) ([]report.Run, error) {
	found, err := store.RunsOf(ctx, jobRun)
	runs := make([]report.Run, len(found))
	for i, run := range found {
		runs[i] = run.Report
	}
	return runs, err
}

// jobRunDocument is the report of a job's run with those of its VM runs.
type jobRunDocument struct {
	report.JobRun
	Runs []report.Run `json:"runs"`
}

func (r recorded) document() any {
	if r.job != nil {
		return jobRunDocument{r.job.Report, r.runs}
	}
	return r.vm.Report
}

func (r recorded) id() string {
	if r.job != nil {
		return r.job.Report.ID
	}
	return r.vm.Report.ID
}

func (r recorded) state() report.State {
	if r.job != nil {
		return r.job.Report.State
	}
	return r.vm.Report.State
}

// owner is the process that the run belongs to.
func (r recorded) owner() state.Owner {
	if r.job != nil {
		return r.job.Owner
	}
	return r.vm.Owner
}

// abandoned is an error when nobody is at work any more on a run that has not ended.
func (r recorded) abandoned() error {
	var beat time.Time
	var mend string
	if r.job != nil {
		beat = r.job.Heartbeat
		mend = fmt.Sprintf("'understudy job run %s' takes it up, 'understudy job cancel %[1]s' ends it", r.job.Report.JobName)
	} else {
		beat, mend = r.vm.Heartbeat, "the next run of its VM takes it up, 'understudy gc' ends it"
	}
	owner := r.owner()
	alive, err := owner.Alive()
	if err != nil { // it is on another host: what it says of itself must do
		alive = time.Since(beat) < state.LeaseTime
	}
	if r.state().Final() || alive {
		return nil
	}
	return fmt.Errorf("run %s has lost its process (%d on %s): %s", r.id(), owner.PID, owner.Host, mend)
}

// failure is why a run ended badly; nil when it did not.
func (r recorded) failure() error {
	if r.job != nil {
		return runFailure("run "+r.id()+" of job "+r.job.Report.JobName, r.state(), r.job.Report.Error)
	}
	return runFailure("run "+r.id(), r.state(), r.vm.Report.Error)
}

// runFailure is the end of a run as an error of the command that stands for it: nil when it was committed.
func runFailure(what string, end report.State, cause string) error {
	if cause != "" {
		cause = ": " + cause
	}
	switch end {
	case report.StateCommitted:
		return nil
	case report.StateCancelled:
		return fmt.Errorf("%s: %w%s", what, errRunCancelled, cause)
	}
	return fmt.Errorf("%s: %s%s", what, end, cause)
}

func (r recorded) write(w *strings.Builder) {
	if r.job != nil {
		writeJobRun(w, r.job.Report, r.runs)
		return
	}
	writeRun(w, r.vm.Report)
	if r.vm.Report.Error != "" {
		fmt.Fprintf(w, "error: %s\n", r.vm.Report.Error)
	}
}

// writeJobRun tells people how a job's run goes, or went.
func writeJobRun(w *strings.Builder, r report.JobRun, runs []report.Run) {
	if len(r.VMs) > 0 {
		_ = report.WriteJobTable(w, report.JobRows(r, runs)) // a Builder takes everything
	}
	writeFindings(w, r.Findings)
	if r.Error != "" {
		fmt.Fprintf(w, "error: %s\n", r.Error)
	}
	since := "since " + moment(r.Started)
	if !r.Finished.IsZero() {
		since = "in " + took(r.Started, r.Finished)
	}
	fmt.Fprintf(w, "%s: run %s of job %s, %d of %s committed, %s\n", r.State, r.ID, r.JobName, committed(r), plural(len(r.VMs), "VM"), since)
}
