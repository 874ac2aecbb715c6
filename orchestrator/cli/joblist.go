package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// jobLine is one job of a list.
type jobLine struct {
	jobDocument
	LastRun *runLine `json:"last_run,omitempty"`
	// OldestCommit is the oldest last commit of the replicas of the VMs that the last run chose; none when one of them was never
	// committed, or no run knows them yet.
	OldestCommit time.Time `json:"oldest_commit,omitzero"`

	from, to string // names of the pools
}

func (a *app) jobList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the jobs, how each ended last, and how old its oldest replica is", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			store, err := a.open(c.Context())
			if err != nil {
				return err
			}
			defer store.Close() //nolint:errcheck // only read
			lines, err := jobLines(c.Context(), store)
			if err != nil {
				return err
			}
			return a.print(lines, func(w *strings.Builder) { writeJobLines(w, lines, time.Now()) })
		},
	}
}

// jobLines lists the jobs as the state database knows them; no pool is asked.
func jobLines(ctx context.Context, store *state.Store) ([]jobLine, error) {
	jobs, err := store.Jobs(ctx)
	if err != nil {
		return nil, err
	}
	poolName, err := poolNames(ctx, store)
	if err != nil {
		return nil, err
	}
	replicas, err := store.Replicas(ctx)
	if err != nil {
		return nil, err
	}
	lines := make([]jobLine, len(jobs))
	for i, j := range jobs {
		lines[i] = jobLine{jobDocument: jobDocumentOf(j), from: poolName(j.Definition.Source), to: poolName(j.Definition.Target)}
		last, err := lastRun(ctx, store, j)
		if err != nil {
			return nil, err
		}
		if last == nil {
			continue
		}
		line := lineOfJob(last.Report)
		lines[i].LastRun = &line
		lines[i].OldestCommit = oldestCommit(j.Definition, last.Report.VMs, replicas)
	}
	return lines, nil
}

// lastRun reads the newest run of a job; nil when there is none.
func lastRun(ctx context.Context, store *state.Store, j state.Job) (*state.JobRun, error) {
	runs, err := store.JobRuns(ctx, j.ID, 1)
	if err != nil || len(runs) == 0 {
		return nil, err
	}
	return &runs[0], nil
}

// oldestCommit is the oldest last commit of the VMs' replicas. A VM has several in one pool when jobs put them on several SRs, which
// only the pool can tell apart by name: then the oldest of them counts.
func oldestCommit(d job.Definition, vms []report.JobVM, replicas []state.Replica) (oldest time.Time) {
	for i, vm := range vms {
		var commit time.Time
		for _, r := range replicas {
			ours := r.SourcePool == d.Source && r.TargetPool == d.Target && r.SourceVM == vm.VM.UUID
			if ours && (commit.IsZero() || r.LastCommit.Before(commit)) {
				commit = r.LastCommit
			}
		}
		if commit.IsZero() {
			return time.Time{}
		}
		if i == 0 || commit.Before(oldest) {
			oldest = commit
		}
	}
	return oldest
}

// poolNames gives the names of pools by uuid; of one that was removed, its uuid.
func poolNames(ctx context.Context, store *state.Store) (func(uuid string) string, error) {
	pools, err := store.Pools(ctx)
	if err != nil {
		return nil, err
	}
	return func(uuid string) string {
		for _, p := range pools {
			if p.UUID == uuid {
				return p.Name
			}
		}
		return uuid
	}, nil
}

func writeJobLines(w *strings.Builder, lines []jobLine, now time.Time) {
	rows := make([][]string, len(lines))
	for i, l := range lines {
		outcome, when, vms, age := "-", "-", "-", "-"
		if r := l.LastRun; r != nil {
			outcome, when, vms, age = string(r.State), moment(r.Started), fmt.Sprintf("%d/%d", r.Committed, r.VMs), "never"
			if !l.OldestCommit.IsZero() {
				age = roughly(max(now.Sub(l.OldestCommit), 0))
			}
		}
		rows[i] = []string{l.Name, choice(l.Enabled, "yes", "no"), l.from, l.to, l.Definition.SR, outcome, when, vms, age}
	}
	printTable(w, []string{"NAME", "ENABLED", "FROM", "TO", "SR", "LAST RUN", "STARTED", "VMS", "OLDEST COMMIT"}, rows)
}
