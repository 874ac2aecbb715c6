package replication_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// forth is the replica of the world's VM, whatever else there is.
func (w *world) forth() state.Replica {
	w.Helper()
	records, err := w.store.Replicas(w.Context())
	w.must(err)
	for _, r := range records {
		if r.SourceVM == w.vm.UUID {
			return r
		}
	}
	w.Fatalf("no replica of VM %s among %d", w.vm.UUID, len(records))
	return state.Replica{}
}

// isNow checks the state of a failover.
func (w *world) isNow(want replica.Failover) state.FailoverNote {
	w.Helper()
	f := w.forth().Failover
	if f.State != string(want) {
		w.Fatalf("the replica is %q, want %s", f.State, want)
	}
	return f.Note
}

func (w *world) reverse(change func(*replication.ReverseRequest)) (report.Run, error) {
	w.Helper()
	request := replication.ReverseRequest{Replica: w.forth().ID, Source: w.a, Target: w.b}
	if change != nil {
		change(&request)
	}
	return w.engine.Reverse(w.Context(), request)
}

func (w *world) reversed() report.Run {
	w.Helper()
	run, err := w.reverse(nil)
	if err != nil {
		w.Fatalf("reverse: %v\n%v", err, run.Events)
	}
	w.isNow(replica.Reversed)
	return run
}

// back is the request of the reverse pair's runs.
func (w *world) back() replication.Request {
	record := w.forth()
	request := w.request
	request.Source, request.Target, request.VM, request.SR, request.Direction = w.b, w.a, record.TargetVM, "source", report.Pull
	return request
}

func (w *world) failsBack(change func(*replication.FailbackRequest)) (report.Run, error) {
	w.Helper()
	request := replication.FailbackRequest{Replica: w.forth().ID, Source: w.a, Target: w.b, Run: w.back()}
	if change != nil {
		change(&request)
	}
	return w.engine.Failback(w.Context(), request)
}

// same compares the disks of both VMs.
func (w *world) same() {
	w.Helper()
	for i, d := range w.forth().Disks {
		x, err := os.ReadFile(w.simA.VDIPath(w.vm.VDIs[i]))
		w.must(err)
		y, err := os.ReadFile(w.simB.VDIPath(d.TargetVDI))
		w.must(err)
		if string(x) != string(y) {
			w.Errorf("disk %d differs", i)
		}
	}
}

// onB writes to a disk of the replica's VM, as its guest does.
func (w *world) onB(disk int, at int64, text string) {
	w.Helper()
	w.write(w.simB.VDIPath(w.forth().Disks[disk].TargetVDI), at, []byte(text))
}

// identity is what a VM is known by.
type identity struct {
	name, description, ha, autoStart string
	tags, macs                       []string
	order                            int64
	blocked                          map[string]string
}

func (w *world) identityOf(api xapi.API, vm xapi.VM) identity {
	w.Helper()
	id := identity{
		name: vm.NameLabel, description: vm.NameDescription, ha: vm.HARestartPriority, autoStart: vm.OtherConfig["auto_poweron"],
		tags: slices.Sorted(slices.Values(vm.Tags)), order: vm.Order, blocked: map[string]string{},
	}
	for operation, reason := range vm.BlockedOperations {
		id.blocked[string(operation)] = reason
	}
	for _, ref := range vm.VIFs {
		vif, err := xapi.GetRecord[xapi.VIF](w.Context(), api, "VIF", ref)
		w.must(err)
		id.macs = append(id.macs, vif.Device+" "+vif.MAC)
	}
	return id
}

func (a identity) equal(b identity) bool {
	return a.name == b.name && a.description == b.description && a.ha == b.ha && a.autoStart == b.autoStart && a.order == b.order &&
		slices.Equal(a.tags, b.tags) && slices.Equal(a.macs, b.macs) && maps.Equal(a.blocked, b.blocked)
}

// TestReverseAndFailback goes there and back again: both sides are written to before the reverse, the way back sends only what differs,
// what the former source held is kept, and in the end it is what it was, and works, while the replica waits and follows it.
func TestReverseAndFailback(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{16 * mib, 4 * mib}})
	ctx := t.Context()
	x, _ := w.sourceVM()
	for call, value := range map[string]any{"set_name_description": "the shop", "set_tags": []string{"gold", "shop"}, "set_order": int64(7)} {
		w.must(w.a.API.Call(ctx, "VM."+call, nil, x, value))
	}
	w.must(w.a.API.Call(ctx, "VM.set_blocked_operations", nil, x, map[string]string{"destroy": "mine"}))
	w.replicate()
	_, before := w.sourceVM()
	was := w.identityOf(w.a.API, before)
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 9*mib, []byte("written before the disaster, and never replicated"))
	w.fallsOver()
	w.onB(0, 3*mib, "written on the other side")
	w.onB(1, 1*mib, "and on its second disk")

	// Two VMs at work are one too many.
	w.must(w.a.API.Call(ctx, "VM.remove_from_blocked_operations", nil, x, "start"))
	w.must(w.a.API.Run(ctx, "VM.start", nil, x, false, false))
	refused := (*replication.ReverseError)(nil)
	if _, err := w.reverse(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "Running") {
		t.Errorf("beside a source that runs: %v", err)
	}
	w.isNow(replica.FailedOver)
	w.must(w.a.API.Run(ctx, "VM.hard_shutdown", nil, x))
	held, err := os.ReadFile(w.simA.VDIPath(w.vm.VDIs[0]))
	w.must(err)

	w.reversed()
	note := w.isNow(replica.Reversed)
	w.suspended()
	_, now := w.sourceVM()
	if now.BlockedOperations["start"] == "" || !slices.Contains(now.Tags, replica.TagLeaveAlone) || now.OtherConfig["auto_poweron"] != "" {
		t.Errorf("the former source is not kept from being started: %+v", now.BlockedOperations)
	}
	keptRef, err := xapi.GetByUUID(ctx, w.a.API, "VM", note.Kept)
	w.must(err)
	kept, err := xapi.GetRecord[xapi.VM](ctx, w.a.API, "VM", keptRef)
	w.must(err)
	if _, err := w.reverse(nil); err == nil {
		t.Error("a replica that is reversed was reversed")
	}

	run, err := w.engine.Replicate(ctx, w.back())
	w.must(err)
	for i, d := range run.Disks {
		if d.Mode != report.Untrusted || d.Sent == 0 || d.Sent > mib || d.Wire > mib {
			t.Errorf("disk %d was compared %s (%s), %d bytes sent, %d on the line", i, d.Mode, d.Cause, d.Sent, d.Wire)
		}
	}
	w.same()
	if content := w.contentA(kept); content != string(held) {
		t.Error("what the former source held is not kept")
	}
	if _, vm := w.sourceVM(); vm.NameLabel != "web" || vm.UUID != w.vm.UUID {
		t.Errorf("the former source is %s (%s)", vm.NameLabel, vm.UUID)
	}

	// Home.
	w.onB(0, 5*mib, "and some more")
	y, _ := w.replicaOf()
	w.must(w.b.API.Call(ctx, "VM.add_tags", nil, y, "added while it worked"))
	forgotten := 0
	run, err = w.failsBack(func(r *replication.FailbackRequest) {
		r.Forgotten = func(context.Context) error { forgotten++; return nil }
	})
	if err != nil {
		t.Fatalf("failback: %v\n%v", err, run.Events)
	}
	w.isNow(replica.Standby)
	_, after := w.sourceVM()
	was.tags = append(was.tags, "added while it worked")
	slices.Sort(was.tags)
	if is := w.identityOf(w.a.API, after); after.PowerState != xapi.Running || !is.equal(was) || forgotten != 1 {
		t.Errorf("the VM is %s, and it was\n%+v, is\n%+v", after.PowerState, was, is)
	}
	if keys := slices.Collect(maps.Keys(after.OtherConfig)); slices.ContainsFunc(keys, func(key string) bool { return strings.HasPrefix(key, "understudy:") }) {
		t.Errorf("it bears %v", after.OtherConfig)
	}
	w.same()
	w.standsBy()
	w.unmarked(note.Kept)
	if _, vm := w.replicaOf(); vm.PowerState != xapi.Halted || vm.BlockedOperations["start"] == "" || !slices.Contains(vm.Tags, replica.TagLeaveAlone) {
		t.Errorf("the replica is %s, blocked %v", vm.PowerState, vm.BlockedOperations)
	}
	if content := w.contentA(kept); content != string(held) {
		t.Error("what the former source held was not kept")
	}
	w.write(w.simA.VDIPath(w.vm.VDIs[1]), 2*mib, []byte("as ever"))
	if run := w.replicate(); run.Disks[0].Sent > mib || run.Disks[0].Mode != report.Untrusted {
		t.Errorf("the next run: %+v", run.Disks[0])
	}
	w.equal()
}

// unmarked checks that nothing in the source's pool says that it is ours but the delegate's template, and that the one snapshot is kept.
func (w *world) unmarked(kept string) {
	w.Helper()
	vms, err := xapi.AllRecords[xapi.VM](w.Context(), w.a.API, "VM")
	w.must(err)
	vdis, err := xapi.AllRecords[xapi.VDI](w.Context(), w.a.API, "VDI")
	w.must(err)
	for _, vm := range vms {
		if marker, _, _ := replica.Read(w.store.Installation().UUID, vm.UUID, vm.OtherConfig); marker.Kind != "" && marker.Kind != replica.KindDelegateTemplate {
			w.Errorf("VM %s is a %s", vm.NameLabel, marker.Kind)
		}
		if vm.IsASnapshot && vm.UUID != kept {
			w.Errorf("snapshot %s is left", vm.NameLabel)
		}
	}
	for _, vdi := range vdis {
		if marker, _, _ := replica.Read(w.store.Installation().UUID, vdi.UUID, vdi.OtherConfig); marker.Kind != "" {
			w.Errorf("VDI %s is a %s", vdi.NameLabel, marker.Kind)
		}
	}
}

// suspended checks that the runs of the pair from the former source are refused.
func (w *world) suspended() {
	w.Helper()
	suspended := (*replication.SuspendedError)(nil)
	if run, err := w.engine.Replicate(w.Context(), w.request); !errors.As(err, &suspended) || run.ID != "" {
		w.Errorf("a run of the former source: %v", err)
	}
}

// replicaOf is the VM of forth.
func (w *world) replicaOf() (xapi.Ref, xapi.VM) {
	w.Helper()
	ref, err := xapi.GetByUUID(w.Context(), w.b.API, "VM", w.forth().TargetVM)
	w.must(err)
	vm, err := xapi.GetRecord[xapi.VM](w.Context(), w.b.API, "VM", ref)
	w.must(err)
	return ref, vm
}

// contentA is what the first disk of a VM of the source's pool holds.
func (w *world) contentA(vm xapi.VM) string {
	w.Helper()
	for _, at := range vm.VBDs {
		vbd, err := xapi.GetRecord[xapi.VBD](w.Context(), w.a.API, "VBD", at)
		w.must(err)
		if vbd.Type != xapi.TypeDisk || vbd.UserDevice != "0" {
			continue
		}
		vdi, err := xapi.GetRecord[xapi.VDI](w.Context(), w.a.API, "VDI", vbd.VDI)
		w.must(err)
		content, err := os.ReadFile(w.simA.VDIPath(vdi.UUID))
		w.must(err)
		return string(content)
	}
	w.Fatal("it has no first disk")
	return ""
}

// fallsOver has the replica do the work, while the source's pool can be reached.
func (w *world) fallsOver() {
	w.Helper()
	request := w.failover()
	request.Source = w.a
	w.failsOver(request)
}
