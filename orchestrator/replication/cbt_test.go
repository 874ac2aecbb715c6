package replication_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// cbtWorld is a world whose changes are tracked, and a replica that trusts.
func cbtWorld(t *testing.T, l layout) *world {
	t.Helper()
	w := newWorld(t, l)
	w.request.CBT, w.request.Trust = "", true
	return w
}

// cbtBases are the disks in the source's pool that bear the marker of a base.
func (w *world) cbtBases() (all []xapi.VDI) {
	w.Helper()
	vdis, err := xapi.AllRecords[xapi.VDI](w.Context(), w.a.API, "VDI")
	w.must(err)
	for _, vdi := range vdis {
		if marker, owner, _ := replica.Read(w.store.Installation().UUID, vdi.UUID, vdi.OtherConfig); owner == replica.Ours && marker.Kind == replica.KindCBTBase {
			all = append(all, vdi)
		}
	}
	return all
}

// namedBases are those that the state names.
func (w *world) namedBases() []state.CBTBase {
	w.Helper()
	named, err := w.store.CBTBases(w.Context(), w.record().ID)
	w.must(err)
	return named
}

// oneBaseEach checks that each disk has one base, bound to the replica's generation, and that there is no other.
func (w *world) oneBaseEach() {
	w.Helper()
	named, found := w.namedBases(), w.cbtBases()
	if len(named) != len(w.vm.VDIs) || len(found) != len(named) {
		w.Fatalf("%d bases are named, %d are there, want %d", len(named), len(found), len(w.vm.VDIs))
	}
	for i, d := range w.record().Disks {
		want := manifest.State{Generation: named[i].Generation}
		if d.State != want || named[i].SourceVDI != d.SourceVDI || !slices.ContainsFunc(found, func(v xapi.VDI) bool { return v.UUID == named[i].VDI }) {
			w.Errorf("disk %s is %s, its base %+v", d.Disk, d.State, named[i])
		}
	}
}

// hinted checks that of each disk only what changed was read, and the slice: an extent, of disks as small as these.
func (w *world) hinted(run report.Run, changed ...int64) {
	w.Helper()
	for i, d := range run.Disks {
		if d.Read > changed[i]*102/100+manifest.ExtentSize || d.Assumed+d.Read < d.LogicalSize || d.Hinted != changed[i] {
			w.Errorf("disk %s of %d bytes: %d were read, %d assumed, %d hinted; %d changed; %v", d.Disk, d.LogicalSize, d.Read, d.Assumed, d.Hinted, changed[i], run.Events)
		}
	}
	w.equal()
}

// whole checks that everything was read, and that the report says why in one event.
func (w *world) whole(run report.Run, cause, text string) {
	w.Helper()
	for _, d := range run.Disks {
		if d.Read < d.LogicalSize || d.Assumed != 0 {
			w.Errorf("disk %s of %d bytes: %d were read, %d assumed", d.Disk, d.LogicalSize, d.Read, d.Assumed)
		}
	}
	w.says(run, cause, text)
	w.equal()
}

func (w *world) says(run report.Run, cause, text string) {
	w.Helper()
	if !slices.ContainsFunc(run.Events, func(e report.Event) bool { return e.Cause == cause && strings.Contains(e.Text, text) }) {
		w.Errorf("no event %s with %q in %v", cause, text, run.Events)
	}
}

const block = manifest.BlockSize

// TestCBT: what the pool says did not change is not read, whatever the way of the run and whatever the replica is taken for. After a run
// that came to nothing, the base of the generation before still serves.
func TestCBT(t *testing.T) {
	w := cbtWorld(t, layout{sizes: []int64{24 * mib, 6 * mib}})
	change := func(disk int, offsets ...int64) {
		for i, at := range offsets {
			w.write(w.simA.VDIPath(w.vm.VDIs[disk]), at, fmt.Appendf(nil, "%d %d %d", disk, i, w.simA.Calls("session.logout")+int(at)))
		}
	}
	run := w.replicate()
	w.whole(run, "cbt-begun", "disk 1")
	w.oneBaseEach()
	w.tidy(1)

	change(0, 5*block+7, 6*block-1, 300*block)
	run = w.replicate()
	w.hinted(run, 3*block, 0)
	w.oneBaseEach()
	t.Logf("disk 0: read %d, assumed %d, sent %d, wire %d", run.Disks[0].Read, run.Disks[0].Assumed, run.Disks[0].Sent, run.Disks[0].Wire)
	if d := run.Disks[0]; d.Mode != report.Trusted || d.ReadTarget > 2*mib || hasEvent(run, "cbt-begun") {
		t.Errorf("mode %s (%s), %d bytes read of the target, %v", d.Mode, d.Cause, d.ReadTarget, run.Events)
	}
	view, err := w.store.CurrentView(t.Context(), w.record().ID, "0")
	w.must(err)
	if !view.Header().Assumed {
		t.Error("the manifest does not say that something was assumed")
	}
	view.Close()

	w.request.Trust = false
	change(1, 17*block)
	run = w.replicate()
	w.hinted(run, 0, block)
	if d := run.Disks[1]; d.Mode != report.Untrusted || d.ReadTarget < d.LogicalSize {
		t.Errorf("mode %s, %d bytes read of the target", d.Mode, d.ReadTarget)
	}
	w.request.Direction = report.Pull
	change(0, 200*block)
	w.hinted(w.replicate(), block, 0)
	w.request.Direction, w.request.Trust = report.Push, true
	w.oneBaseEach()

	before := w.namedBases()
	change(0, 20*block)
	undo := w.simB.Fault(xapisim.Rule{Method: "VM.snapshot", Count: 1, Error: &xapisim.Error{Code: "INTERNAL_ERROR"}})
	if _, err := w.engine.Replicate(t.Context(), w.request); err == nil {
		t.Fatal("a run whose restore point failed was committed")
	}
	undo()
	if now := w.namedBases(); !slices.Equal(now, before) || len(w.cbtBases()) != 2 {
		t.Errorf("a run that failed left the bases %+v, before it were %+v", now, before)
	}
	change(0, 100*block)
	run = w.replicate()
	if d := run.Disks[0]; d.Assumed == 0 || d.Read > 4*manifest.ExtentSize || hasEvent(run, "cbt-generation") {
		t.Errorf("after a run that failed %d bytes were read, %d assumed; %v", d.Read, d.Assumed, run.Events)
	}
	w.equal()
	w.oneBaseEach()
	w.tidy(3)
}

// alteredBitmap is an API whose bitmap since one base is cut.
type alteredBitmap struct {
	xapi.API
	base xapi.Ref
}

func (a alteredBitmap) Call(ctx context.Context, method string, result any, args ...any) error {
	err := a.API.Call(ctx, method, result, args...)
	if text, ok := result.(*string); ok && err == nil && method == "VDI.list_changed_blocks" && args[0] == a.base {
		*text = "gA==" // one byte
	}
	return err
}

// TestCBTLosses: however the tracking of a disk comes to an end it is found and named, the disk is read as a whole, and tracking begins
// anew. One run finds six losses, on a disk each.
func TestCBTLosses(t *testing.T) {
	w := cbtWorld(t, layout{sizes: slices.Repeat([]int64{8 * mib}, 6)})
	w.replicate()
	var sources, bases []xapi.Ref
	for i, b := range w.namedBases() {
		for refs, uuid := range map[*[]xapi.Ref]string{&sources: w.vm.VDIs[i], &bases: b.VDI} {
			ref, err := xapi.GetByUUID(t.Context(), w.a.API, "VDI", uuid)
			w.must(err)
			*refs = append(*refs, ref)
		}
	}
	fault := func(method string, object xapi.Ref, code string) {
		t.Cleanup(w.simA.Fault(xapisim.Rule{Method: method, Object: string(object), Count: 1, Error: &xapisim.Error{Code: code, Params: []string{"", "text", ""}}}))
	}
	pool, was := *w.a, w.request.Source
	pool.API = alteredBitmap{w.a.API, bases[5]}
	w.request.Source = &pool
	w.call(w.a.API, "VDI.disable_cbt", sources[0])
	fault("VDI.list_changed_blocks", bases[1], "SR_BACKEND_FAILURE_459")
	fault("VDI.list_changed_blocks", bases[2], "SR_BACKEND_FAILURE_460")
	w.call(w.a.API, "VDI.destroy", bases[3])
	w.must(xapi.SetOtherConfigKey(t.Context(), w.a.API, "VDI", bases[4], "understudy:state", "clean:"+manifest.NewGeneration().String()))
	for i, vdi := range w.vm.VDIs {
		w.write(w.simA.VDIPath(vdi), 3*mib, fmt.Append(nil, "change ", i))
	}
	run := w.replicate()
	for i, want := range [][2]string{
		{"cbt-switched-off", "switched off"}, {"cbt-chain-lost", "459"}, {"cbt-chain-lost", "460"},
		{"cbt-base-gone", "is gone"}, {"cbt-base-gone", "does not say"}, {"cbt-bitmap", "1 bytes"},
	} {
		w.says(run, want[0], fmt.Sprintf("disk %d: everything is read, not only what changed", i))
		w.says(run, want[0], want[1])
		w.says(run, "cbt-begun", fmt.Sprintf("disk %d", i))
	}
	w.whole(run, "cbt-begun", "disk 5")
	w.request.Source = was
	w.oneBaseEach()
	fault("VDI.data_destroy", "", "SR_BACKEND_FAILURE_80")
	run = w.replicate()
	w.hinted(run, 0, 0, 0, 0, 0, 0)
	if !hasEvent(run, "cbt-base-failed") || len(w.cbtBases()) != 5 || len(w.namedBases()) != 5 {
		t.Errorf("%d bases, %v", len(w.cbtBases()), run.Events)
	}
	run = w.replicate()
	if read := run.Disks[1].Read; !hasEvent(run, "cbt-begun") || read > 4*mib {
		t.Errorf("%d bytes of disk 1 were read, %v", read, run.Events)
	}
	w.oneBaseEach()
	w.tidy(3)
}

// TestCBTOfAnotherState: a bitmap is of no use for a replica, or a disk, that is not as the last run left it.
func TestCBTOfAnotherState(t *testing.T) {
	w := cbtWorld(t, layout{sizes: []int64{8 * mib}})
	w.replicate()
	w.hinted(w.replicate(), 0)
	w.revert(w.points()[1].UUID)
	w.whole(w.replicate(), "cbt-generation", "reverted")
	w.startAndHalt()
	w.resync()
	w.whole(w.replicate(), "cbt-generation", "anew")
	w.grow(0, 12*mib)
	w.whole(w.replicate(), "cbt-resized", "it had 8388608")
	w.oneBaseEach()

	snapshot := w.make(w.a.API, "VM.snapshot", xapi.Ref(w.vm.Ref), "a user's")
	w.must(w.a.API.Run(t.Context(), "VM.revert", nil, snapshot))
	record, err := xapi.GetRecord[xapi.VM](t.Context(), w.a.API, "VM", xapi.Ref(w.vm.Ref))
	w.must(err)
	for _, ref := range record.VBDs {
		if vbd, err := xapi.GetRecord[xapi.VBD](t.Context(), w.a.API, "VBD", ref); err == nil && vbd.Type == xapi.TypeDisk {
			w.must(w.a.API.Call(t.Context(), "VDI.get_uuid", &w.vm.VDIs[0], vbd.VDI))
		}
	}
	w.must(w.simA.Restrict("CBT"))
	run := w.replicate()
	w.whole(run, "cbt-other-disk", "was reverted")
	w.says(run, "cbt-unavailable", "licence")
	if len(w.cbtBases()) != 0 || len(w.namedBases()) != 0 {
		t.Errorf("bases %v", w.namedBases())
	}
	w.must(w.simA.Restrict())
	t.Cleanup(w.simA.Fault(xapisim.Rule{Method: "VDI.enable_cbt", Count: 1, Error: &xapisim.Error{Code: "SR_OPERATION_NOT_SUPPORTED", Params: []string{"sr"}}}))
	w.whole(w.replicate(), "cbt-unavailable", "SR")
	w.whole(w.replicate(), "cbt-begun", "disk 0")
	w.hinted(w.replicate(), 0)
	w.oneBaseEach()
}

// TestCBTLies: a bitmap that misses a block is found out by the rolling slice, and all is read in the same run. From then on nothing is
// made of bitmaps, until an administrator has it forgotten.
func TestCBTLies(t *testing.T) {
	w := cbtWorld(t, layout{sizes: []int64{12 * mib}})
	w.replicate()
	w.must(w.simA.Lie(xapisim.Lie{Kind: "missing-bit", Object: "source", Count: 1, Seed: 1}))
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 7*mib, []byte("nobody says that this changed"))
	found := 0
	for run := 1; found == 0; run++ {
		if run > 3 { // as many runs as extents
			t.Fatal("the lie was not found")
		}
		if r := w.replicate(); hasEvent(r, "hint-disabled") {
			found = run
			w.whole(r, "hint-disabled", "extent 1")
		}
	}
	if bases := w.namedBases(); len(w.cbtBases()) != 0 || len(bases) != 1 || bases[0].Distrusted == "" {
		t.Errorf("after a lie the bases are %+v", bases)
	}
	w.whole(w.replicate(), "cbt-distrusted", "extent 1")
	w.request.CBT = replication.CBTOff
	w.replicate()
	w.request.CBT = replication.CBTOn
	w.whole(w.replicate(), "cbt-begun", "disk 0")
	w.hinted(w.replicate(), 0)
	w.oneBaseEach()
}

// TestCoarserHint: a map that is too large to be sent marks more, and never less.
func TestCoarserHint(t *testing.T) {
	const size = 3*manifest.ExtentSize + 5*block + 1
	fine := blockio.NewAllocationMap(size)
	for _, off := range []int64{7 * block, manifest.ExtentSize - 1, size - 1} {
		fine.Mark(off, 1)
	}
	for unit := int64(manifest.ExtentSize); unit < 1<<30; unit *= 2 {
		coarse := replication.Coarser(fine, unit)
		both := coarse.Clone()
		if err := both.Union(fine); err != nil || both.Bytes() != coarse.Bytes() {
			t.Errorf("unit %d: %v, something is not marked any more", unit, err)
		}
		if want := min(unit, 3*manifest.ExtentSize) + size - 3*manifest.ExtentSize; unit == manifest.ExtentSize && coarse.Bytes() != want {
			t.Errorf("unit %d: %d bytes are marked, want %d", unit, coarse.Bytes(), want)
		}
	}
}
