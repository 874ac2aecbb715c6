package replication_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// foreignHands is what somebody may do to a replica that is to be trusted, and what finds it. do gives what puts it right again.
var foreignHands = []struct {
	name     string
	do       func(*world) (mend func())
	outcome  replication.Standing // diverged and stranger: held; dirty: scanned; clean: trusted
	rung     replica.Rung
	cause    string // part of it
	inTheRun bool   // it is found after the plan
}{
	{"started and halted again", (*world).startAndHalt, replication.StandingDiverged, replica.RungPower, "was started at", false},
	{"attached to another VM", (*world).lend, replication.StandingDiverged, replica.RungWriters, "holds disk 0", false},
	{"written by another VM and detached again", (*world).lendAndWrite, replication.StandingDiverged, replica.RungEmptyLeaf, "at offset 4194304", true},
	{"found before", func(w *world) func() { return func() { w.resync(); w.replicate(); w.equal() } }, replication.StandingDiverged, replica.RungEmptyLeaf, "at offset 4194304", false},
	{"restored from another copy", (*world).restoreDisk, replication.StandingDiverged, replica.RungEmptyLeaf, "at offset 0", true},
	{"kept, and run again", func(w *world) func() { w.resync(); return func() {} }, replication.StandingDirty, replica.RungDatabase, "no commit", false},
	{"another installation's marker", (*world).foreignMarker, replication.StandingStranger, replica.RungOwnership, "of installation", false},
	{"a user's snapshot", (*world).foreignSnapshot, replication.StandingDirty, replica.RungForeign, "has a snapshot", false},
	{"cloned", (*world).cloneReplica, replication.StandingClean, replica.RungEmptyLeaf, "every rung holds", false},
	{"its disk swapped", (*world).swapDisk, replication.StandingStranger, replica.RungOwnership, "disk 0", false},
	{"the state database of yesterday", (*world).restoreState, replication.StandingDirty, replica.RungVMMarker, "the state database", false},
	{"reverted by hand", (*world).revertByHand, replication.StandingStranger, replica.RungOwnership, "", false},
}

// TestForeignHands does one after the other to one replica. Held means that nothing of it is written; whatever came before, the run
// after it was put right makes the replica equal to its source.
func TestForeignHands(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{8 * mib}})
	w.request.Trust = true
	w.replicate()
	for i, c := range foreignHands {
		mend := c.do(w)
		w.write(w.simA.VDIPath(w.vm.VDIs[0]), 3*mib, []byte{byte(i + 1)})
		before, _ := os.ReadFile(w.replicaPath(0)) // a revert has removed it
		run, err := w.engine.Replicate(t.Context(), w.request)
		switch c.outcome {
		case replication.StandingDiverged, replication.StandingStranger:
			var held *replication.HeldError
			if !errors.As(err, &held) || held.Rung != string(c.rung) || !strings.Contains(held.Cause, c.cause) ||
				held.Diverged != (c.outcome == replication.StandingDiverged) || c.inTheRun != (run.ID != "") {
				t.Fatalf("%s: want held at rung %s, got %v; run %q", c.name, c.rung, err, run.ID)
			}
			for _, verb := range []string{"replica resync " + w.record().ID, "replica detach " + w.record().ID} {
				if held.Diverged && !strings.Contains(err.Error(), verb) {
					t.Errorf("%s: %v does not name '%s'", c.name, err, verb)
				}
			}
			if after, _ := os.ReadFile(w.replicaPath(0)); !bytes.Equal(before, after) {
				t.Errorf("%s: the replica was written", c.name)
			}
			if d := w.details(); d.Standing != c.outcome || d.Rung != c.rung || d.Cause != held.Cause {
				t.Errorf("%s: shown as %s, rung %s: %s", c.name, d.Standing, d.Rung, d.Cause)
			}
		default:
			w.must(err)
			mode := report.Untrusted
			if c.outcome == replication.StandingClean {
				mode = report.Trusted
			}
			if d := run.Disks[0]; d.Mode != mode || d.Rung != string(c.rung) || !strings.Contains(d.Cause, c.cause) || d.Untested != "" {
				t.Errorf("%s: compared %s at rung %s: %s", c.name, d.Mode, d.Rung, d.Cause)
			}
			w.equal()
		}
		mend()
	}
	w.replicate()
	w.equal()
}

// details are those of the only replica.
func (w *world) details() replication.Details {
	w.Helper()
	d, err := replication.Show(w.Context(), w.store, w.record().ID, w.a, w.b)
	w.must(err)
	return d
}

// resync has the next run overwrite the replica, and checks that what it held is kept.
func (w *world) resync() {
	w.Helper()
	want, err := os.ReadFile(w.replicaPath(0))
	w.must(err)
	before := len(w.details().Kept)
	run, err := w.engine.Resync(w.Context(), replication.ResyncRequest{Replica: w.record().ID, Target: w.b})
	if err != nil || run.State != report.StateCommitted {
		w.Fatalf("resync is %s, %v", run.State, err)
	}
	kept := w.details().Kept
	if len(kept) != before+1 {
		w.Fatalf("%d snapshots are kept, want %d", len(kept), before+1)
	}
	ref, err := xapi.GetByUUID(w.Context(), w.b.API, "VM", kept[0].UUID)
	w.must(err)
	vdis, err := xapi.AllRecords[xapi.VDI](w.Context(), w.b.API, "VDI")
	w.must(err)
	vbds, err := xapi.AllRecords[xapi.VBD](w.Context(), w.b.API, "VBD")
	w.must(err)
	found := false
	for _, vbd := range vbds {
		if vbd.VM == ref {
			got, err := os.ReadFile(w.simB.VDIPath(vdis[vbd.VDI].UUID))
			w.must(err)
			found = found || bytes.Equal(got, want)
		}
	}
	if !found {
		w.Errorf("snapshot %s does not hold what the replica held", kept[0].Name)
	}
}

func (w *world) startAndHalt() func() {
	vm, _ := w.replicaVM()
	w.must(w.b.API.Call(w.Context(), "VM.set_blocked_operations", nil, vm, map[string]string{}))
	w.must(w.b.API.Run(w.Context(), "VM.start", nil, vm, false, false))
	if _, err := w.engine.Resync(w.Context(), replication.ResyncRequest{Replica: w.record().ID, Target: w.b}); err == nil || !strings.Contains(err.Error(), "shut it down") {
		w.Errorf("resync of a running replica: %v", err)
	}
	w.isHeld(replica.RungPower, replication.StandingDiverged)
	w.must(w.b.API.Run(w.Context(), "VM.hard_shutdown", nil, vm))
	return w.resync
}

// lend attaches the replica's disk to another VM.
func (w *world) lend() func() {
	other, err := w.simB.AddVM(xapisim.VMConfig{Name: "other"})
	w.must(err)
	w.attach(w.b.API, xapi.Ref(other.Ref), w.record().Disks[0].TargetVDI, "0")
	return func() {
		if _, err := w.engine.Resync(w.Context(), replication.ResyncRequest{Replica: w.record().ID, Target: w.b}); err == nil || !strings.Contains(err.Error(), "detach it") {
			w.Errorf("resync while another VM holds the disk: %v", err)
		}
		vm, err := xapi.GetRecord[xapi.VM](w.Context(), w.b.API, "VM", xapi.Ref(other.Ref))
		w.must(err)
		w.must(w.b.API.Call(w.Context(), "VBD.destroy", nil, vm.VBDs[0]))
		w.replicate() // over what was started
		w.equal()
	}
}

func (w *world) lendAndWrite() func() {
	w.write(w.replicaPath(0), 5*mib, []byte("somebody was here"))
	return func() {}
}

func (w *world) restoreDisk() func() {
	w.write(w.replicaPath(0), 0, bytes.Repeat([]byte("yesterday"), 7*mib/9))
	return func() {}
}

func (w *world) foreignMarker() func() {
	vm, _ := w.replicaVM()
	set := func(installation string) {
		w.must(xapi.SetOtherConfigKey(w.Context(), w.b.API, "VM", vm, "understudy:installation", installation))
	}
	set("00112233-4455-4677-8899-aabbccddeeff")
	return func() { set(w.store.Installation().UUID) }
}

func (w *world) foreignSnapshot() func() {
	vm, _ := w.replicaVM()
	var snapshot string
	w.must(w.b.API.Run(w.Context(), "VM.snapshot", &snapshot, vm, "mine"))
	return func() { w.remove(xapi.Ref(snapshot)) }
}

// remove destroys a snapshot with its disk.
func (w *world) remove(snapshot xapi.Ref) {
	w.Helper()
	record, err := xapi.GetRecord[xapi.VM](w.Context(), w.b.API, "VM", snapshot)
	w.must(err)
	vbd, err := xapi.GetRecord[xapi.VBD](w.Context(), w.b.API, "VBD", record.VBDs[0])
	w.must(err)
	w.must(xapi.DestroyVDI(w.Context(), w.b.API, vbd.VDI))
	w.must(w.b.API.Run(w.Context(), "VM.destroy", nil, snapshot))
}

// cloneReplica checks afterwards that the clone, which bears all markers of the replica, is nobody's of ours.
func (w *world) cloneReplica() func() {
	vm, _ := w.replicaVM()
	var clone string
	w.must(w.b.API.Run(w.Context(), "VM.clone", &clone, vm, "a user's copy"))
	return func() {
		_, err := replication.Replicas(w.Context(), w.store, w.a, w.b)
		w.must(err)
		record, err := xapi.GetRecord[xapi.VM](w.Context(), w.b.API, "VM", xapi.Ref(clone))
		w.must(err)
		if _, owner, _ := replica.Read(w.store.Installation().UUID, record.UUID, record.OtherConfig); owner != replica.Stranger || len(record.VBDs) != 1 {
			w.Errorf("the clone is %s and has %d disks", owner, len(record.VBDs))
		}
	}
}

// swapDisk puts a copy of the disk in its place.
func (w *world) swapDisk() func() {
	vm, record := w.replicaVM()
	ours := w.record().Disks[0].TargetVDI
	disk, err := xapi.GetByUUID(w.Context(), w.b.API, "VDI", ours)
	w.must(err)
	var clone, uuid string
	w.must(w.b.API.Run(w.Context(), "VDI.clone", &clone, disk, map[string]string{}))
	w.must(w.b.API.Call(w.Context(), "VDI.get_uuid", &uuid, clone))
	w.must(w.b.API.Call(w.Context(), "VBD.destroy", nil, record.VBDs[0]))
	w.attach(w.b.API, vm, uuid, "0")
	return func() {
		_, record := w.replicaVM()
		w.must(w.b.API.Call(w.Context(), "VBD.destroy", nil, record.VBDs[0]))
		w.attach(w.b.API, vm, ours, "0")
	}
}

// restoreState puts the state back from before a run.
func (w *world) restoreState() func() {
	live, backup := filepath.Join(w.dir, "state"), filepath.Join(w.TempDir(), "state")
	w.must(w.store.Close())
	w.must(os.CopyFS(backup, os.DirFS(live)))
	w.open()
	w.connect()
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), mib, []byte("newer"))
	w.replicate()
	w.must(w.store.Close())
	w.must(os.RemoveAll(live))
	w.must(os.CopyFS(live, os.DirFS(backup)))
	w.open()
	w.connect()
	return func() {}
}

// revertByHand has the replica leave its markers behind. What is left to do is to let it go, and have a new one made.
func (w *world) revertByHand() func() {
	vm, _ := w.replicaVM()
	point, err := xapi.GetByUUID(w.Context(), w.b.API, "VM", w.details().Points[0].UUID)
	w.must(err)
	w.must(w.b.API.Run(w.Context(), "VM.revert", nil, point))
	return func() {
		_, err := w.engine.Detach(w.Context(), replication.DetachRequest{Replica: w.record().ID, Target: w.b})
		w.must(err)
		if _, err := xapi.GetRecord[xapi.VM](w.Context(), w.b.API, "VM", vm); err != nil {
			w.Error(err)
		}
	}
}

// TestLeafOfARunThatDidNotCommit: what its journal accounts for is no foreign write; what lies elsewhere is.
func TestLeafOfARunThatDidNotCommit(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{24 * mib}})
	w.request.Trust = true
	w.replicate()
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 5*mib, []byte("newer"))
	w.fails(fault{w.simB, "host.get_servertime", 1, "INTERNAL_ERROR"}, 1)
	if !w.record().Disks[0].State.Dirty {
		t.Fatal("the run did not leave the replica dirty")
	}
	plan, err := w.engine.Plan(t.Context(), w.request)
	if d := plan.Disks[0]; err != nil || d.Baseline != replication.BaselineManifest || d.Untested != string(replica.RungEmptyLeaf) {
		t.Fatalf("planned %+v, %v", d, err)
	}
	w.write(w.replicaPath(0), 17*mib, []byte("somebody was here"))
	var held *replication.HeldError
	if _, err := w.engine.Replicate(t.Context(), w.request); !errors.As(err, &held) || !strings.Contains(held.Cause, "offset 16777216") {
		t.Fatalf("a write beside the journal gave %v", err)
	}
	w.resync()
	w.replicate()
	w.equal()
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 6*mib, []byte("newer still"))
	w.fails(fault{w.simB, "host.get_servertime", 1, "INTERNAL_ERROR"}, 2)
	run := w.replicate()
	if d := run.Disks[0]; d.Mode != report.Trusted || d.Rung != string(replica.RungEmptyLeaf) || d.Untested != "" {
		t.Errorf("compared %s at rung %s: %s", d.Mode, d.Rung, d.Cause)
	}
	w.equal()
}

// TestWrittenBeforeThePlug: somebody writes to the replica between the look at its leaf and the plugging of its disk. The pool notices that the
// disk takes more, and it is scanned.
func TestWrittenBeforeThePlug(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{24 * mib}})
	w.request.Trust = true
	w.replicate()
	target := w.b
	w.interrupt("VBD.plug", nil, func() {
		noise := make([]byte, 4*mib)
		_, _ = rand.NewChaCha8([32]byte{9}).Read(noise)
		w.write(w.replicaPath(0), 17*mib, noise)
		sr, err := xapi.GetByUUID(t.Context(), target.API, "SR", w.record().TargetSR)
		w.must(err)
		w.must(target.API.Run(t.Context(), "SR.scan", nil, sr))
	})
	run := w.replicate()
	if d := run.Disks[0]; d.Mode != report.Untrusted || !hasEvent(run, "trust-untested") {
		t.Errorf("mode %s (%s), events %v", d.Mode, d.Cause, run.Events)
	}
	w.equal()
	w.request.Target = target
	if d := w.replicate().Disks[0]; d.Mode != report.Trusted {
		t.Errorf("the next run: mode %s (%s)", d.Mode, d.Cause)
	}
}

// TestLeafCannotBeTested: each time the run says so and scans.
func TestLeafCannotBeTested(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.request.Trust = true
	w.replicate()
	for _, c := range []struct {
		name, cause string
		hinder      func()
	}{
		{"the pool refuses", "VDI_IO_ERROR", func() {
			w.simB.Fault(xapisim.Rule{Method: "http/get_export_raw_vdi", Count: 1, Error: &xapisim.Error{Code: "VDI_IO_ERROR", Params: []string{"x"}}})
		}},
		{"the connection breaks", "export", func() {
			w.simB.Fault(xapisim.Rule{Method: "http/get_export_raw_vdi", Count: 1, CutAfter: 700})
		}},
		{"it takes more than it did", "the pool says that it takes", func() {
			if w.record().Disks[0].Utilisation == 0 {
				t.Error("nothing was noted after the last commit")
			}
			target := *w.b
			target.API = swollen{API: w.b.API, disk: w.record().Disks[0].TargetVDI}
			w.request.Target = &target
		}},
		{"no restore point", "no restore point", func() {
			for _, p := range w.details().Points {
				ref, err := xapi.GetByUUID(t.Context(), w.b.API, "VM", p.UUID)
				w.must(err)
				w.remove(ref)
			}
		}},
	} {
		c.hinder()
		run := w.replicate()
		if d := run.Disks[0]; d.Mode != report.Untrusted || d.Rung != string(replica.RungEmptyLeaf) || d.Untested != d.Rung ||
			!strings.Contains(d.Cause, c.cause) || !hasEvent(run, "trust-untested") {
			t.Errorf("%s: compared %s at rung %s: %s", c.name, d.Mode, d.Rung, d.Cause)
		}
		w.request.Target = w.b
		if d := w.replicate().Disks[0]; d.Mode != report.Trusted {
			t.Errorf("%s, the run after that: compared %s: %s", c.name, d.Mode, d.Cause)
		}
	}
}

// swollen is a pool that says of a disk that it takes more room.
type swollen struct {
	xapi.API
	disk string // uuid
}

func (s swollen) Call(ctx context.Context, method string, result any, args ...any) error {
	err := s.API.Call(ctx, method, result, args...)
	if vdis, ok := result.(*map[xapi.Ref]xapi.VDI); ok {
		for ref, vdi := range *vdis {
			if vdi.UUID == s.disk {
				vdi.PhysicalUtilisation += 2 * mib
				(*vdis)[ref] = vdi
			}
		}
	}
	return err
}
