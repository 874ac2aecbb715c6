package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/cli/progress"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// watchEvery is the time between two looks at what is recorded of a run.
const watchEvery = 500 * time.Millisecond

func (a *app) runWatch() *cobra.Command {
	return &cobra.Command{
		Use: "watch ID", Short: "Follow a run, whoever executes it, until it ends", Args: cobra.ExactArgs(1),
		Long: "Shows how far a run has come, from what its process records, and prints the report at its end. The exit code is 0 when\n" +
			"the run was committed, 130 when it was cancelled, else 1. Ending this command does nothing to the run.",
		RunE: func(c *cobra.Command, args []string) error {
			store, err := a.open(c.Context())
			if err != nil {
				return err
			}
			defer store.Close() //nolint:errcheck // only read
			r, err := a.follow(c.Context(), store, args[0])
			if err != nil {
				return err
			}
			return errors.Join(a.print(r.document(), r.write), r.failure())
		},
	}
}

// follow shows a run until it ends.
func (a *app) follow(ctx context.Context, store *state.Store, id string) (recorded, error) {
	w := newWatcher(a.stderr)
	defer w.close()
	return w.follow(ctx, store, id)
}

// watcher shows how runs go. Its methods may be called concurrently.
type watcher struct {
	out io.Writer

	mu     sync.Mutex
	states map[string]report.State      // of a job's VMs, as they were shown, by uuid
	shown  map[string]*progress.Display // of the VM runs, by their id
}

func newWatcher(out io.Writer) *watcher {
	return &watcher{out: out, states: map[string]report.State{}, shown: map[string]*progress.Display{}}
}

// follow shows a run, from what is recorded of it, until it ends, and returns it as it ended. Of one that has ended before there is
// nothing to show.
func (w *watcher) follow(ctx context.Context, store *state.Store, id string) (recorded, error) {
	for looks := 0; ; looks++ {
		r, err := findRecorded(ctx, store, id)
		if err != nil || looks == 0 && r.state().Final() {
			return r, err
		}
		if r.job != nil {
			for _, run := range r.runs {
				w.vmOfJob(run)
			}
			w.job(r.job.Report)
		} else {
			w.vm(r.vm.Report, w.out)
		}
		if r.state().Final() {
			return r, nil
		}
		if err := r.abandoned(); err != nil {
			return recorded{}, err
		}
		select {
		case <-ctx.Done():
			return recorded{}, context.Cause(ctx)
		case <-time.After(watchEvery):
		}
	}
}

// job tells which VMs of a job's run wait, and how those ended that have. Of the others their own runs tell.
func (w *watcher) job(run report.JobRun) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, vm := range run.VMs {
		before := w.states[vm.VM.UUID]
		w.states[vm.VM.UUID] = vm.State
		if vm.State == before || vm.State == report.StateRunning {
			continue
		}
		cause := ""
		if vm.Error != "" {
			cause = ": " + strings.ReplaceAll(vm.Error, "\n", "\n  ")
		}
		// As with any progress, there is nowhere to say that this failed.
		_, _ = fmt.Fprintf(w.out, "%s: %s%s\n", named(vm.VM.Name, vm.VM.UUID), vm.State, cause)
	}
}

// vmOfJob shows a VM run of a job. Several go on side by side: lines with the VM's name, no bars.
func (w *watcher) vmOfJob(run report.Run) {
	w.vm(run, &prefixed{w.out, named(run.VM.Name, run.VM.UUID) + ": "})
}

func (w *watcher) vm(run report.Run, out io.Writer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.shown[run.ID] == nil {
		w.shown[run.ID] = progress.New(out)
	}
	w.shown[run.ID].Observe(run)
}

// close ends what is shown; then the terminal is free.
func (w *watcher) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.shown {
		d.Close()
	}
}

// prefixed writes whole lines with a prefix before each.
type prefixed struct {
	out    io.Writer
	prefix string
}

func (p *prefixed) Write(lines []byte) (int, error) {
	var out bytes.Buffer
	for line := range bytes.Lines(lines) {
		out.WriteString(p.prefix)
		out.Write(line)
	}
	if _, err := p.out.Write(out.Bytes()); err != nil {
		return 0, err
	}
	return len(lines), nil
}
