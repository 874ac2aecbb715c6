package replication_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// runs starts the source VM.
func (w *world) runs() {
	w.Helper()
	w.must(w.a.API.Run(w.Context(), "VM.start", nil, w.vm.Ref, false, false))
}

// power is the source's power state.
func (w *world) power() (state xapi.VMPowerState) {
	w.Helper()
	w.must(w.a.API.Call(w.Context(), "VM.get_power_state", &state, w.vm.Ref))
	return state
}

// apart reports for each disk whether the replica lacks something of the source.
func (w *world) apart() (differ []bool) {
	w.Helper()
	for i, d := range w.record().Disks {
		w.mapped(w.simA.VDIPath(w.vm.VDIs[i]), func(source []byte) {
			w.mapped(w.replicaPath(i), func(copied []byte) { differ = append(differ, !bytes.Equal(source, copied[:d.LogicalSize])) })
		})
	}
	return differ
}

// TestConsistency replicates a VM whose guest writes to both of its disks at once, whenever it runs between the snapshots of the
// two: with 'disk' the one has what the other lacks, with 'paused' neither has.
func TestConsistency(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib, 4 * mib}})
	w.runs()
	torn := xapisim.Lie{Kind: "torn-snapshot", Object: "web", Blocks: 2, Count: 1}
	w.must(w.simA.Lie(torn))

	// The pool says that its second disk came three seconds after the first.
	pool := *w.a
	var first string
	pool.API = altered{w.a.API, func(result any) {
		if vdi, ok := result.(*xapi.VDI); ok && vdi.IsASnapshot {
			if first == "" {
				first = vdi.UUID
			}
			vdi.SnapshotTime = xapi.Time{Time: time.Unix(1e9, 0)}
			if vdi.UUID != first {
				vdi.SnapshotTime = xapi.Time{Time: time.Unix(1e9+3, 0)}
			}
		}
	}}
	w.request.Source = &pool
	run := w.replicate()
	if differ := w.apart(); !slices.Equal(differ, []bool{true, false}) {
		t.Fatalf("with 'disk' the disks lack what was written between their snapshots: %v, want only the first to", differ)
	}
	if s := run.Snapshot; run.Consistency != report.ConsistencyDisk || s.PowerState != "Running" || s.Spread == nil || *s.Spread != 3 || s.Paused != 0 {
		t.Errorf("%s: %+v", run.Consistency, s)
	}
	w.request.Source = w.a

	w.must(w.simA.Lie(torn))
	w.request.Consistency = report.ConsistencyPaused
	run = w.replicate()
	if differ := w.apart(); slices.Contains(differ, true) || w.power() != xapi.Running {
		t.Fatalf("with 'paused' the disks lack something of the VM: %v, and it is %s", differ, w.power())
	}
	if s := run.Snapshot; run.Consistency != report.ConsistencyPaused || s.PowerState != "Paused" || s.Spread == nil || s.Paused <= 0 {
		t.Errorf("%s: %+v", run.Consistency, s)
	}
	w.goesOnPaused()
}

// goesOnPaused: whatever becomes of a run, and whoever is at work on the VM besides, it runs afterwards, or is as its administrator left it.
func (w *world) goesOnPaused() {
	boom := &xapisim.Error{Code: "INTERNAL_ERROR", Params: []string{"injected"}}
	ends := xapisim.Rule{Method: "VDI.clone", Error: boom} // once the snapshot was taken, the run fails
	call := func(method string) func() { return func() { w.must(w.a.API.Run(w.Context(), method, nil, w.vm.Ref)) } }
	paused := func() bool { return w.power() == xapi.Paused }
	for _, c := range []struct {
		name   string
		rules  []xapisim.Rule
		before func()
		act    func() // once the VM is paused
		power  xapi.VMPowerState
		code   string
		event  string
	}{
		{name: "the snapshot fails", rules: []xapisim.Rule{{Method: "VM.snapshot", Error: boom}}, power: xapi.Running, code: boom.Code},
		{name: "unpausing fails", rules: []xapisim.Rule{{Method: "VM.unpause", Count: 1, Error: boom}}, power: xapi.Running, code: boom.Code},
		{name: "pausing fails", rules: []xapisim.Rule{{Method: "VM.pause", Error: boom}}, power: xapi.Running, code: boom.Code},
		{name: "an operation excludes it for a while", rules: []xapisim.Rule{ends,
			{Method: "VM.pause", Count: 1, Error: &xapisim.Error{Code: "OTHER_OPERATION_IN_PROGRESS"}},
			{Method: "VM.unpause", Count: 1, Error: &xapisim.Error{Code: "OTHER_OPERATION_IN_PROGRESS"}}}, power: xapi.Running, code: boom.Code},
		{name: "both answers are lost", rules: []xapisim.Rule{ends, {Method: "VM.pause", Count: 1, CutReply: true},
			{Method: "VM.unpause", Count: 1, CutReply: true}}, power: xapi.Running, code: boom.Code},
		{name: "paused by its administrator", rules: []xapisim.Rule{ends}, before: call("VM.pause"), power: xapi.Paused, code: boom.Code},
		{name: "let go on by its administrator", rules: []xapisim.Rule{ends, {Method: "VM.snapshot", Delay: 200 * time.Millisecond}},
			before: call("VM.unpause"), act: call("VM.unpause"), power: xapi.Running, code: boom.Code, event: "not-paused"},
		{name: "shut down by its administrator", rules: []xapisim.Rule{ends, {Method: "VM.snapshot", Delay: 200 * time.Millisecond}},
			act: call("VM.hard_shutdown"), power: xapi.Halted, code: boom.Code},
		{name: "it does not run", rules: []xapisim.Rule{ends}, power: xapi.Halted, code: boom.Code},
	} {
		var undo []func()
		for _, rule := range c.rules {
			undo = append(undo, w.simA.Fault(rule))
		}
		if c.before != nil {
			c.before()
		}
		acted := make(chan struct{})
		if c.act != nil {
			w.when(paused, func() { c.act(); close(acted) })
		} else {
			close(acted)
		}
		run, err := w.engine.Replicate(w.Context(), w.request)
		<-acted
		for _, f := range undo {
			f()
		}
		if !xapi.IsCode(err, c.code) || w.power() != c.power {
			w.Errorf("%s: the VM is %s, want %s; %v", c.name, w.power(), c.power, err)
		}
		if c.event != "" && !slices.Contains(causes(run), c.event) {
			w.Errorf("%s: events %v", c.name, run.Events)
		}
		w.tidy(2)
	}
	w.runs()
	ctx, cancel := context.WithCancel(w.Context())
	defer cancel()
	w.when(paused, cancel)
	defer w.simA.Fault(xapisim.Rule{Method: "VM.snapshot", Delay: 200 * time.Millisecond})()
	if _, err := w.engine.Replicate(ctx, w.request); !errors.Is(err, context.Canceled) || w.power() != xapi.Running {
		w.Errorf("cancelled while the VM was paused: it is %s, %v", w.power(), err)
	}
	w.tidy(2)
}
