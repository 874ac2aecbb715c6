package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// recoveredRun is a run that 'gc' has cleaned up after, or could not.
type recoveredRun struct {
	Run     string          `json:"run"`
	Removed []removedObject `json:"removed"`
	Error   string          `json:"error,omitempty"`
}

type removedObject struct {
	Pool  string `json:"pool"` // uuid
	Class string `json:"class"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	UUID  string `json:"uuid,omitempty"` // empty when it had not been made
}

func (a *app) gc() *cobra.Command {
	return &cobra.Command{
		Use: "gc", Short: "Clean up after runs whose process died", Args: cobra.NoArgs,
		Long: "Ends the runs whose process on this machine is dead, and removes the delegates, snapshots and clones that their\nrecords name. Nothing else is ever removed.\nSuch a run cannot go on then, as 'replicate' would have it.\nA pool that does not answer keeps what was left in it; the next gc tries again.",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.session(c.Context())
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // what was done is durable
			pools, unreachable := s.all(c.Context(), nil)
			engine := &replication.Engine{Store: s.store, Log: a.logger(a.stderr)}
			recovered, err := engine.Recover(c.Context(), pools...)
			documents := []recoveredRun{}
			for _, r := range recovered {
				document := recoveredRun{Run: r.Run.Report.ID, Removed: removedObjects(r.Undone)}
				if r.Err != nil {
					document.Error = r.Err.Error()
				}
				documents = append(documents, document)
			}
			return errors.Join(unreachable, err, a.print(documents, func(w *strings.Builder) { writeRecovered(w, documents) }))
		},
	}
}

func removedObjects(objects []state.Object) []removedObject {
	removed := make([]removedObject, len(objects))
	for i, o := range objects {
		removed[i] = removedObject{Pool: o.Pool, Class: o.Class, Kind: o.Kind, Name: o.Name, UUID: o.UUID}
	}
	return removed
}

func writeRecovered(w *strings.Builder, runs []recoveredRun) {
	if len(runs) == 0 {
		fmt.Fprintln(w, "nothing to clean up")
	}
	for _, run := range runs {
		fmt.Fprintf(w, "run %s: removed %d objects\n", run.Run, len(run.Removed))
		if run.Error != "" {
			fmt.Fprintf(w, "  not all: %s\n", run.Error)
		}
		for _, o := range run.Removed {
			fmt.Fprintf(w, "  %s %s %s\n", o.Kind, o.Name, dash(o.UUID))
		}
	}
}
