package delegate_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// undo undoes one object by a saga of its own, as a later process would.
func (f *fixture) undo(o state.Object) error {
	return saga.New(f.store, f.spawner.Run, delegate.Undoers(f.pool)).Undo(f.t.Context(), o)
}

// record is the only object of the run.
func (f *fixture) record() state.Object {
	f.t.Helper()
	objects, err := f.store.Objects(f.t.Context(), f.spawner.Run)
	if err != nil || len(objects) != 1 {
		f.t.Fatal(objects, err)
	}
	return objects[0]
}

// intend records a delegate whose creation is about to be asked for.
func (f *fixture) intend() state.Object {
	f.t.Helper()
	o, err := f.store.RecordIntent(f.t.Context(), state.Object{
		Run: f.spawner.Run, Pool: f.pool.Inventory.UUID, Class: "VM", Kind: string(replica.KindDelegate), Origin: f.template.UUID,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return o
}

// TestUndoARunningDelegate removes it from its record, with a disk of others still plugged.
func TestUndoARunningDelegate(t *testing.T) {
	t.Parallel()
	f := newFixture(t, processWorld(t), 1)
	_, vdi := f.addVM("one", 2*mib)
	d := f.spawn()
	if _, err := d.Plug(t.Context(), vdi, 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.undo(f.record()); err != nil {
			t.Fatal(err)
		}
		f.nothingLeft()
	}
	if o := f.record(); o.Status != state.ObjectUndone {
		t.Errorf("recorded as %s", o.Status)
	}
}

// TestUndoWhatWasNotRecorded has a process that died between the clone and the record of its uuid.
func TestUndoWhatWasNotRecorded(t *testing.T) {
	t.Parallel()
	f := newFixture(t, honest(t), 1)
	o := f.intend()
	var ref xapi.Ref
	f.call("VM.clone", &ref, f.template.Ref, o.Name)
	if err := f.undo(o); err != nil {
		t.Fatal(err)
	}
	f.nothingLeft()
}

// TestUndoWaitsForAClone has a process that died while the pool was cloning.
func TestUndoWaitsForAClone(t *testing.T) {
	t.Parallel()
	f := newFixture(t, honest(t), 1)
	o := f.intend()
	var task xapi.Ref
	f.call("task.create", &task, "Async.VM.clone", "")
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(400 * time.Millisecond)
		var ref xapi.Ref
		f.call("VM.clone", &ref, f.template.Ref, o.Name)
		f.call("task.set_status", nil, task, "success")
	}()
	if err := f.undo(o); err != nil {
		t.Error(err)
	}
	<-done
	f.nothingLeft()
}

// TestUndoTakesNoHalfClone has a clone that bears its name already while its task goes on.
func TestUndoTakesNoHalfClone(t *testing.T) {
	t.Parallel()
	f := newFixture(t, honest(t), 1)
	o := f.intend()
	var task, ref xapi.Ref
	f.call("task.create", &task, "Async.VM.clone", "")
	f.call("VM.clone", &ref, f.template.Ref, o.Name)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		time.Sleep(400 * time.Millisecond)
		if n := f.sim.Calls("Async.VM.destroy") + f.sim.Calls("Async.VDI.destroy"); n != 0 {
			t.Errorf("%d calls destroyed what was being made", n)
		}
		f.call("task.set_status", nil, task, "success")
	}()
	if err := f.undo(o); err != nil {
		t.Error(err)
	}
	<-ended
	f.nothingLeft()
}

// TestUndoContinues has undoings that were cut short.
func TestUndoContinues(t *testing.T) {
	t.Parallel()
	f := newFixture(t, honest(t), 1)
	d := f.spawn()
	for _, method := range []string{"VM.hard_shutdown", "VDI.destroy", "VM.destroy"} {
		remove := f.faulty(method)
		if err := f.undo(f.record()); !xapi.IsCode(err, "INTERNAL_ERROR") {
			t.Errorf("%s: %v", method, err)
		}
		remove()
	}
	if vm := f.vm(d.Ref); vm.PowerState != xapi.Halted {
		t.Errorf("the VM is %s", vm.PowerState)
	}
	if err := d.Retire(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.nothingLeft()
}

// TestStrangersAreLeftAlone has objects that look like the record's and are not.
func TestStrangersAreLeftAlone(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(f *fixture, d *delegate.Delegate){
		"the VM bears no marker": func(f *fixture, d *delegate.Delegate) { f.call("VM.set_other_config", nil, d.Ref, map[string]string{}) },
		"the VM bears the marker of another": func(f *fixture, d *delegate.Delegate) {
			f.setKey("VM", d.Ref, "understudy:self", f.template.VDIs[0])
		},
		"the VM is of another run": func(f *fixture, d *delegate.Delegate) {
			f.setKey("VM", d.Ref, "understudy:run", f.template.VDIs[0])
		},
		"its disk bears the marker of another": func(f *fixture, d *delegate.Delegate) {
			f.setKey("VDI", f.bootDisk(d.Ref), "understudy:self", f.template.VDIs[0])
		},
		"its disk is a replica's": func(f *fixture, d *delegate.Delegate) {
			f.setKey("VDI", f.bootDisk(d.Ref), "understudy:kind", string(replica.KindReplicaDisk))
		},
		"its disk is attached to another VM": func(f *fixture, d *delegate.Delegate) {
			vm, _ := f.addVM("another", 2*mib)
			f.attach(vm, f.bootDisk(d.Ref))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, honest(t), 1)
			d, err := f.spawner.Spawn(t.Context(), f.spec())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(d.Control().Close)
			spoil(f, d)
			before := f.objects()
			if err := d.Retire(t.Context()); !errors.Is(err, delegate.ErrStranger) {
				t.Errorf("got %v", err)
			}
			if now := f.objects(); !maps.Equal(now, before) {
				t.Errorf("the pool has %v, it had %v", now, before)
			}
			if o := f.record(); !o.Pending() {
				t.Errorf("recorded as %s", o.Status)
			}
		})
	}
}

// TestCopiesAreNotFound has a user who clones a delegate under its own name, and a record without a uuid.
func TestCopiesAreNotFound(t *testing.T) {
	t.Parallel()
	f := newFixture(t, honest(t), 2)
	d := f.spawn()
	o := f.intend()
	f.call("VM.hard_shutdown", nil, d.Ref)
	var copied xapi.Ref
	f.call("VM.clone", &copied, d.Ref, o.Name)
	f.call("VM.set_is_a_template", nil, copied, true)
	if err := f.undo(o); err != nil {
		t.Fatal(err)
	}
	f.call("VM.set_is_a_template", nil, copied, false)
	if vm := f.vm(copied); len(vm.VBDs) != 1 || f.bootDisk(copied).IsNull() {
		t.Errorf("the copy was touched: %+v", vm)
	}
	infos, err := delegate.List(t.Context(), f.pool)
	if err != nil || len(infos) != 2 {
		t.Fatal(infos, err)
	}
	if owners := []string{string(infos[0].Ownership), string(infos[1].Ownership)}; !slices.Contains(owners, "stranger") || !slices.Contains(owners, "ours") {
		t.Errorf("listed as %v", owners)
	}
}

func TestUndoInAPoolThatIsNotConnected(t *testing.T) {
	t.Parallel()
	f := newFixture(t, honest(t), 1)
	o := f.intend()
	err := delegate.Undoers()[o.Kind](t.Context(), o)
	if err == nil || fmt.Sprint(err) != fmt.Sprintf("pool %s is not connected; connect it and try again", o.Pool) {
		t.Errorf("got %v", err)
	}
}
