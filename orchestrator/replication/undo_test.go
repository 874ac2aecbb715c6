package replication_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/state/statetest"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// records is a pool of a few records. What is not in it is gone.
type records struct {
	xapi.API
	began    time.Time
	pending  string        // name of a task
	until    time.Duration // it ends then
	vms      map[xapi.Ref]xapi.VM
	vbds     map[xapi.Ref]xapi.VBD
	vdis     map[xapi.Ref]xapi.VDI
	failing  map[string]error // what methods answer
	called   map[string]time.Duration
	anything error // what every call answers
}

func (p *records) Call(_ context.Context, method string, result any, args ...any) error {
	p.called[method] = time.Since(p.began)
	if err := errors.Join(p.anything, p.failing[method]); err != nil {
		return err
	}
	switch result := result.(type) {
	case *map[xapi.Ref]xapi.Task:
		*result = map[xapi.Ref]xapi.Task{}
		if time.Since(p.began) < p.until {
			(*result)["task"] = xapi.Task{NameLabel: p.pending, Status: xapi.TaskPending}
		}
	case *[]xapi.Ref: // by name
		for ref, vm := range p.vms {
			if vm.NameLabel == args[0] {
				*result = append(*result, ref)
			}
		}
	case *xapi.Ref: // by uuid
		return &xapi.Error{Code: "UUID_INVALID", Params: []string{"VDI", "x"}}
	case *xapi.VM:
		return take(p.vms, "VM", args[0], result)
	case *xapi.VBD:
		return take(p.vbds, "VBD", args[0], result)
	case *xapi.VDI:
		return take(p.vdis, "VDI", args[0], result)
	}
	return nil
}

func take[T any](from map[xapi.Ref]T, class string, ref any, result *T) error {
	record, ok := from[ref.(xapi.Ref)]
	if !ok {
		return &xapi.Error{Code: "HANDLE_INVALID", Params: []string{class, string(ref.(xapi.Ref))}}
	}
	*result = record
	return nil
}

func (p *records) Run(ctx context.Context, method string, _ *string, args ...any) error {
	return p.Call(ctx, method, nil, args...)
}

func (p *records) Events(context.Context, []string, string, time.Duration) (xapi.EventBatch, error) {
	return xapi.EventBatch{}, errors.New("not asked for here")
}

// snapshotRecord is the record of a snapshot whose uuid is not known.
var snapshotRecord = state.Object{Run: "run", Sequence: 1, Pool: "pool", Class: "VM", Kind: string(replica.KindSnapshot), Name: "ours", Origin: "vm"}

// undoing gives an undoer in a pool that has a snapshot of one disk.
func undoing(t *testing.T) (*records, saga.Undoers) {
	t.Helper()
	store, err := statetest.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	p := &records{
		began: time.Now(), called: map[string]time.Duration{}, failing: map[string]error{},
		vms:  map[xapi.Ref]xapi.VM{"vm": {UUID: "snapshot", NameLabel: "ours", IsASnapshot: true, VBDs: []xapi.Ref{"vbd"}}},
		vbds: map[xapi.Ref]xapi.VBD{"vbd": {VM: "vm", VDI: "vdi", Type: xapi.TypeDisk, UserDevice: "0"}},
		vdis: map[xapi.Ref]xapi.VDI{"vdi": {UUID: "disk", VBDs: []xapi.Ref{"vbd"}}},
	}
	return p, replication.Undoers(store, &delegate.Pool{Name: "p", API: p, Inventory: &inventory.Pool{UUID: "pool"}})
}

// TestUndoByName has a pool that makes a snapshot, perhaps ours, for some time.
func TestUndoByName(t *testing.T) {
	for name, c := range map[string]struct {
		task     string
		until    time.Duration
		there    bool
		removed  bool
		fails    bool
		min, max time.Duration
	}{
		"nothing is being made":           {"Async.VM.snapshot", 0, true, true, false, 0, 0},
		"something else is being made":    {"Async.VM.clone", time.Hour, true, true, false, 0, 0},
		"it has its name and not yet all": {"Async.VM.snapshot", 5 * time.Second, true, true, false, 5 * time.Second, 6 * time.Second},
		"the task does not end":           {"Async.VM.snapshot", time.Hour, true, true, false, 30 * time.Second, 31 * time.Second},
		"nor is anything found":           {"Async.VM.snapshot", time.Hour, false, false, true, 30 * time.Second, 31 * time.Second},
		"nothing was made":                {"Async.VM.snapshot", time.Second, false, false, false, time.Second, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool, undoers := undoing(t)
				pool.pending, pool.until, pool.began = c.task, c.until, time.Now()
				if !c.there {
					pool.vms = nil
				}
				err := undoers[snapshotRecord.Kind](t.Context(), snapshotRecord)
				took := time.Since(pool.began)
				if (err != nil) != c.fails || took < c.min || took > c.max {
					t.Errorf("%v after %v", err, took)
				}
				at, removed := pool.called["VM.destroy"]
				if removed != c.removed || at < c.min && removed {
					t.Errorf("removed: %v, after %v", removed, at)
				}
			})
		})
	}
}

// TestUndoPastMissingObjects has handles that are no more.
func TestUndoPastMissingObjects(t *testing.T) {
	invalid := func(class, ref string) error {
		return &xapi.Error{Code: "HANDLE_INVALID", Params: []string{class, ref}}
	}
	for name, c := range map[string]struct {
		spoil   func(*records)
		removed bool // the removal was asked for
		fails   bool
	}{
		"the disk is gone":              {func(p *records) { p.vdis = nil }, true, false},
		"the VBD is gone":               {func(p *records) { p.vbds = nil }, true, false},
		"the snapshot goes meanwhile":   {func(p *records) { p.failing["VM.destroy"] = invalid("VM", "vm") }, true, false},
		"its record is gone":            {func(p *records) { p.failing["VM.get_record"] = invalid("VM", "vm") }, false, false},
		"another object is gone":        {func(p *records) { p.failing["VM.destroy"] = invalid("host", "x") }, true, true},
		"the task is gone":              {func(p *records) { p.failing["VDI.destroy"] = errors.Join(xapi.ErrOutcomeUnknown, invalid("task", "x")) }, false, true},
		"the disk's repository is gone": {func(p *records) { p.failing["VDI.destroy"] = invalid("SR", "x") }, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool, undoers := undoing(t)
				c.spoil(pool)
				err := undoers[snapshotRecord.Kind](t.Context(), snapshotRecord)
				if _, removed := pool.called["VM.destroy"]; removed != c.removed || (err != nil) != c.fails {
					t.Errorf("removed: %v, %v", removed, err)
				}
			})
		})
	}
}
