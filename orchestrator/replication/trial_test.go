package replication_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// scratch finds the file of the scratch disk, if there is one.
func (w *world) scratch() (path string) {
	w.Helper()
	vdis, err := xapi.AllRecords[xapi.VDI](w.Context(), w.a.API, "VDI")
	w.must(err)
	for _, vdi := range vdis {
		if vdi.OtherConfig["understudy:kind"] == "scratch" {
			path = w.simA.VDIPath(vdi.UUID)
		}
	}
	return path
}

// bootImage fills the disk of pool a's delegate template, and returns its content.
func (w *world) bootImage() []byte {
	w.Helper()
	view, err := inventory.Load(w.Context(), w.a.API)
	w.must(err)
	uuid := view.DelegateTemplates()[0].Disks[0].VDI.UUID
	w.fill(uuid, 10*mib, 77)
	content, err := os.ReadFile(w.simA.VDIPath(uuid))
	w.must(err)
	return content
}

func TestTryDelegate(t *testing.T) {
	w := newWorld(t, layout{})
	image := w.bootImage()
	var dialled atomic.Int64
	w.engine.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		dialled.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	var said []string
	result, err := w.engine.TryDelegate(t.Context(), replication.TrialRequest{Pool: w.a, SR: "source", Step: func(what string) {
		said = append(said, what)
		if what == "compare the two" {
			if content, err := os.ReadFile(w.scratch()); err != nil || !bytes.Equal(content, image) {
				t.Errorf("the scratch disk has %d bytes, equal %v, %v", len(content), bytes.Equal(content, image), err)
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if result.Pool != "a" || result.SR != "source" || result.Host == "" || result.Version == "" || !strings.HasPrefix(result.Address, "127.") || result.Error != "" {
		t.Errorf("result %+v", result)
	}
	if len(result.Steps) != len(said) || len(said) != 11 {
		t.Errorf("%d steps, %d were told", len(result.Steps), len(said))
	}
	for _, step := range result.Steps {
		moves := strings.HasPrefix(step.Step, "copy") || strings.HasPrefix(step.Step, "read")
		if step.Error != "" || step.Duration < 0 || moves != (step.Throughput > 0) || moves != (step.Bytes == int64(len(image))) {
			t.Errorf("step %+v", step)
		}
	}
	if dialled.Load() == 0 {
		t.Error("the delegate was reached by another way than the one given")
	}
	w.tidy(0)
	runs, err := w.store.Runs(t.Context(), 1)
	if err != nil || len(runs) != 1 || runs[0].Kind != state.RunTest || runs[0].Report.State != report.StateCommitted {
		t.Errorf("runs %+v, %v", runs, err)
	}
}

// TestTrialsThatFail has every kind of thing go wrong; nothing is left behind.
func TestTrialsThatFail(t *testing.T) {
	w := newWorld(t, layout{})
	w.bootImage()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for name, c := range map[string]struct {
		ctx     context.Context
		request replication.TrialRequest
		at      string // step that fails
		meddle  func()
		want    func(error) bool
	}{
		"storage that lies": {
			at: "compare the two", meddle: func() { w.write(w.scratch(), 5*mib, bytes.Repeat([]byte{1}, 4096)) },
			want: func(err error) bool {
				return errors.Is(err, replication.ErrCorrupt) && strings.Contains(err.Error(), "SR images")
			},
		},
		"no such host": {
			request: replication.TrialRequest{Host: "none"}, at: "find a host and an image",
			want: func(err error) bool { var missing *inventory.NotFoundError; return errors.As(err, &missing) },
		},
		"no such SR": {
			request: replication.TrialRequest{SR: "none"}, at: "find a host and an image",
			want: func(err error) bool { var missing *inventory.NotFoundError; return errors.As(err, &missing) },
		},
		"no host that can": {
			request: replication.TrialRequest{Host: "a-host1"}, at: "find a host and an image",
			want: func(err error) bool { var cannot *placement.Infeasible; return errors.As(err, &cannot) },
		},
		"the caller leaves": {
			ctx: ctx, at: "copy the delegate's boot disk to the scratch disk", meddle: cancel,
			want: func(err error) bool { return errors.Is(err, context.Canceled) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			trigger := c.at
			if name == "storage that lies" {
				trigger = "read the scratch disk"
			}
			if c.request.Host == "a-host1" {
				host := w.hostRef("a-host1")
				w.must(w.a.API.Call(t.Context(), "host.disable", nil, host))
			}
			c.request.Pool = w.a
			c.request.Step = func(what string) {
				if what == trigger && c.meddle != nil {
					c.meddle()
				}
			}
			if c.ctx == nil {
				c.ctx = t.Context()
			}
			result, err := w.engine.TryDelegate(c.ctx, c.request)
			if err == nil || !c.want(err) || result.Error != err.Error() {
				t.Errorf("%v; %+v", err, result)
			}
			failed := ""
			for _, step := range result.Steps {
				if step.Error != "" {
					failed = step.Step
				}
			}
			if failed != c.at {
				t.Errorf("%q failed, not %q", failed, c.at)
			}
			w.tidy(0)
		})
	}
}

func (w *world) hostRef(name string) xapi.Ref {
	w.Helper()
	view, err := inventory.Load(w.Context(), w.a.API)
	w.must(err)
	ref, err := view.FindHost(name)
	w.must(err)
	return ref
}

// TestATrialThatDied is cleaned up after by recovery, from its record alone.
func TestATrialThatDied(t *testing.T) {
	w := newWorld(t, layout{})
	w.bootImage()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// Its pool stops obeying before anything can be removed.
	var remove []func()
	_, err := w.engine.TryDelegate(ctx, replication.TrialRequest{Pool: w.a, Step: func(what string) {
		if what == "plug the scratch disk" {
			for _, method := range []string{"VDI.destroy", "VM.hard_shutdown", "VM.destroy"} {
				injected := xapisim.Rule{Method: method, Error: &xapisim.Error{Code: "INTERNAL_ERROR", Params: []string{"injected"}}}
				remove = append(remove, w.simA.Fault(injected))
			}
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "understudy gc") {
		t.Errorf("got %v", err)
	}
	for _, restore := range remove {
		restore()
	}
	recovering, done := context.WithTimeout(t.Context(), time.Minute)
	defer done()
	recovered, err := w.engine.Recover(recovering, w.a, w.b)
	if err != nil || len(recovered) != 1 || len(recovered[0].Undone) != 2 {
		t.Fatalf("%+v, %v", recovered, err)
	}
	w.tidy(0)
	if again, err := w.engine.Recover(recovering, w.a, w.b); err != nil || len(again) != 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
}
