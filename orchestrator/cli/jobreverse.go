package cli

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/runner"
)

// reversedDocument is what came of 'job reverse'.
type reversedDocument struct {
	Job      *jobDocument      `json:"job"` // in the other direction; null: no replica could be reversed
	Replicas []runner.Reversed `json:"replicas"`
}

func (a *app) jobReverse() *cobra.Command {
	var options runner.ReverseOptions
	var direction string
	c := &cobra.Command{
		Use: "reverse NAME", Short: "Replicate back: the former sources become replicas of the VMs that work now", Args: cobra.ExactArgs(1),
		Long: "For every replica of the job that has failed over its former source becomes a replica of the VM that does the work now,\n" +
			"and a job in the other direction is made, whose runs compare the former source's disks and send what differs. The former\n" +
			"source must be halted, and is kept from being started. What it holds is kept in a snapshot first, where there is room.\n\n" +
			"A replica that somebody started by hand counts as one that has failed over while it runs; one that is halted again when\n" +
			"--vm names it. The command may be repeated: it goes on, and adds what has failed over since.",
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			s, err := a.session(ctx)
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // the runs' ends are durable
			known, err := s.store.Job(ctx, args[0])
			if err != nil {
				return err
			}
			if options.Direction = report.Direction(direction); direction != "" && !options.Direction.Valid() {
				return usagef("direction %q: it is push or pull", direction)
			}
			for i, name := range options.Used {
				found, err := findReplica(ctx, s, name)
				if err != nil {
					return err
				}
				options.Used[i] = found.Replica.UUID
			}
			back, replicas, failure := a.runner(s).Reverse(ctx, known, options)
			if len(replicas) == 0 {
				return failure
			}
			document := reversedDocument{Replicas: replicas}
			if back.ID != "" {
				made := jobDocumentOf(back)
				document.Job = &made
			}
			return errors.Join(failure, a.print(document, document.write))
		},
	}
	c.Flags().StringVar(&options.Name, "name", "", "`name` of the job in the other direction (default: the job's name with ' (reverse)')")
	c.Flags().StringVar(&direction, "direction", "", "push or pull; without it the same side dials as before, so that a push becomes a pull")
	c.Flags().StringVar(&options.SR, "sr", "", "`storage` in the former sources' pool for disks that are gone there")
	c.Flags().BoolVar(&options.NoKeep, "no-keep", false, "keep no snapshot of what the former sources hold: it is lost with the next run")
	c.Flags().StringArrayVar(&options.Used, "vm", nil, "take the replica of this `VM` for failed over, which somebody started by hand; may be given again")
	return c
}

func (d reversedDocument) write(w *strings.Builder) {
	for _, r := range d.Replicas {
		name, former := cmp.Or(r.VM.Name, r.VM.UUID), cmp.Or(r.Former.Name, r.Former.UUID)
		if r.Error != "" {
			fmt.Fprintf(w, "VM %s of pool %s: not reversed\n", name, r.VM.Pool)
			continue
		}
		fmt.Fprintf(w, "VM %s of pool %s does the work, VM %s of pool %s is its replica\n", name, r.VM.Pool, former, r.Former.Pool)
		for _, e := range r.Run.Events {
			fmt.Fprintf(w, "note: %s\n", e.Text)
		}
	}
	if d.Job != nil {
		fmt.Fprintf(w, "job %q replicates back: 'understudy job run %q', and 'understudy replica failback' when the work is to go home\n", d.Job.Name, d.Job.Name)
	}
}
