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

	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// jobShown is everything that is known of a job.
type jobShown struct {
	jobDocument
	LastRun *report.JobRun `json:"last_run,omitempty"`
	// VMs are those that the selectors choose now; null when the source pool does not answer.
	VMs []chosenVM `json:"vms"`
}

// chosenVM is a VM of a job with its replica, if there is one.
type chosenVM struct {
	VM      report.VM         `json:"vm"`
	Replica *replication.Info `json:"replica,omitempty"`
}

func (a *app) jobShow() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a job, the VMs it chooses now with their replicas, and its last run", Args: cobra.ExactArgs(1),
		Long: "A pool that does not answer hides what only it can tell; the rest is shown, and the exit code is not 0.",
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.session(c.Context())
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // only read
			known, err := s.store.Job(c.Context(), args[0])
			if err != nil {
				return err
			}
			poolName, err := poolNames(c.Context(), s.store)
			if err != nil {
				return err
			}
			shown, unreachable := a.describeJob(c.Context(), s, known)
			return errors.Join(a.print(shown, func(w *strings.Builder) { shown.write(w, poolName, time.Now()) }), unreachable)
		},
	}
}

// describeJob gathers what is known of a job. The error is about what could not be asked.
func (a *app) describeJob(ctx context.Context, s *session, known state.Job) (jobShown, error) {
	shown := jobShown{jobDocument: jobDocumentOf(known)}
	last, err := lastRun(ctx, s.store, known)
	if err != nil {
		return shown, err
	}
	if last != nil {
		shown.LastRun = &last.Report
	}
	vms, err := a.runner(s).Resolve(ctx, known)
	if err != nil {
		return shown, err
	}
	pools, unreachable := s.all(ctx, slices.Compact([]string{known.Definition.Source, known.Definition.Target}))
	replicas, err := replication.Replicas(ctx, s.store, pools...)
	shown.VMs = make([]chosenVM, len(vms))
	for i, vm := range vms {
		shown.VMs[i] = chosenVM{VM: vm, Replica: replicaOf(known.Definition, vm, replicas)}
	}
	return shown, errors.Join(unreachable, err)
}

// replicaOf finds the replica that a job keeps of a VM; nil when there is none.
func replicaOf(d job.Definition, vm report.VM, replicas []replication.Info) *replication.Info {
	for _, r := range replicas {
		ours := r.VM.PoolUUID == d.Source && r.Replica.PoolUUID == d.Target && r.VM.UUID == vm.UUID
		if ours && (strings.EqualFold(r.SR, d.SR) || r.SRName == d.SR || r.SRName == "") {
			return &r
		}
	}
	return nil
}

func (s jobShown) write(w *strings.Builder, poolName func(string) string, now time.Time) {
	fmt.Fprintf(w, "job %s (%s), %s, changed %s\n", s.Name, s.ID, choice(s.Enabled, "enabled", "disabled"), moment(s.Updated))
	writeDefinition(w, s.Definition, poolName)
	switch r := s.LastRun; {
	case r == nil:
		fmt.Fprintln(w, "it has not run yet")
	default:
		fmt.Fprintf(w, "last run: %s, began %s, %d of %s committed, %s\n", r.State, moment(r.Started), committed(*r), plural(len(r.VMs), "VM"), r.ID)
	}
	switch {
	case s.VMs == nil:
		fmt.Fprintln(w, "which VMs it chooses now is not known")
		return
	case len(s.VMs) == 0:
		fmt.Fprintln(w, "it chooses no VM now")
		return
	}
	fmt.Fprintf(w, "it chooses %s now:\n", plural(len(s.VMs), "VM"))
	var rows [][]string
	var causes []string
	for _, vm := range s.VMs {
		replica, standing, age, points := "-", "none", "-", "-"
		if r := vm.Replica; r != nil {
			replica, standing, points = named(r.Replica.Name, r.Replica.UUID), string(r.Standing), fmt.Sprint(r.RestorePoints)
			if !r.LastCommit.IsZero() {
				age = roughly(r.Age(now))
			}
			if r.Cause != "" {
				causes = append(causes, fmt.Sprintf("%s: %s: %s", cmp.Or(vm.VM.Name, vm.VM.UUID), r.Standing, r.Cause))
			}
		}
		rows = append(rows, []string{vm.VM.Name, vm.VM.UUID, replica, standing, age, points})
	}
	printTable(w, []string{"VM", "UUID", "REPLICA", "STATE", "AGE", "POINTS"}, rows)
	for _, cause := range causes {
		fmt.Fprintln(w, cause)
	}
}
