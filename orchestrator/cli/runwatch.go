package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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
			w := &watcher{store: store, out: a.stderr}
			r, err := w.follow(c.Context(), args[0])
			w.close()
			if err != nil {
				return err
			}
			return errors.Join(a.print(r.document(), r.write), r.failure())
		},
	}
}

// watcher shows how a run goes, from what is recorded of it.
type watcher struct {
	store  *state.Store
	out    io.Writer
	states map[string]report.State      // of a job's VMs, as they were shown, by uuid
	shown  map[string]*progress.Display // of the VM runs, by their id
}

// follow shows a run until it ends, and returns it as it ended.
func (w *watcher) follow(ctx context.Context, id string) (recorded, error) {
	for {
		r, err := findRecorded(ctx, w.store, id)
		if err != nil {
			return recorded{}, err
		}
		w.show(r)
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

// show tells what is new.
func (w *watcher) show(r recorded) {
	if r.vm != nil {
		w.display(r.vm.Report.ID, "").Observe(r.vm.Report)
		return
	}
	for _, vm := range r.job.Report.VMs {
		name := named(vm.VM.Name, vm.VM.UUID)
		for _, run := range r.runs {
			if run.ID == vm.Run {
				w.display(run.ID, name+": ").Observe(run)
			}
		}
		if w.states == nil {
			w.states = map[string]report.State{}
		}
		if vm.State == w.states[vm.VM.UUID] {
			continue
		}
		w.states[vm.VM.UUID] = vm.State
		cause := ""
		if vm.Error != "" {
			cause = ": " + vm.Error
		}
		_, _ = fmt.Fprintf(w.out, "%s: %s%s\n", name, vm.State, cause) // as with any progress, nowhere to say that this failed
	}
}

// display shows one VM run. Those of a job go on side by side: lines with the VM's name, no bars.
func (w *watcher) display(run, prefix string) *progress.Display {
	if w.shown == nil {
		w.shown = map[string]*progress.Display{}
	}
	if w.shown[run] == nil {
		out := w.out
		if prefix != "" {
			out = &prefixed{out, prefix}
		}
		w.shown[run] = progress.New(out)
	}
	return w.shown[run]
}

// close ends all displays.
func (w *watcher) close() {
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
