package replication_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const (
	importing = "http/put_import_raw_vdi"
	exporting = "http/get_export_raw_vdi"
)

// newBareWorld has pools without a delegate's image or addresses, and wants the standard method.
func newBareWorld(t *testing.T, l layout) *world {
	t.Helper()
	l.bare = true
	w := newWorld(t, l)
	w.request.Method = report.Standard
	return w
}

// addOddDisk gives the source a disk of a size that no SR would make, as somebody does who copies a file into one.
func (w *world) addOddDisk(size int64) {
	w.Helper()
	content := make([]byte, size)
	for i := 0; i < len(content); i += 512 {
		content[i] = byte(i>>9) | 1
	}
	path := filepath.Join(filepath.Dir(w.simA.VDIPath(w.vm.VDIs[0])), "8f3c9b1e-6a54-4c0f-9d5c-0d1f0c5a7e11.raw")
	w.must(os.WriteFile(path, content, 0o600))
	srs, err := xapi.AllRecords[xapi.SR](w.Context(), w.a.API, "SR")
	w.must(err)
	for ref, sr := range srs {
		if sr.NameLabel == "source" {
			w.must(w.a.API.Call(w.Context(), "SR.scan", nil, ref))
		}
	}
	vdis, err := xapi.AllRecords[xapi.VDI](w.Context(), w.a.API, "VDI")
	w.must(err)
	for _, vdi := range vdis {
		if vdi.VirtualSize == size {
			vm, _ := w.sourceVM()
			w.attach(w.a.API, vm, vdi.UUID, "9")
			w.vm.VDIs = append(w.vm.VDIs, vdi.UUID)
			return
		}
	}
	w.Fatal("the SR does not show the new disk")
}

// deploy makes delegates possible.
func (w *world) deploy() {
	w.Helper()
	for _, sim := range []*xapisim.Pool{w.simA, w.simB} {
		_, err := sim.AddDelegateTemplate("images", "1.0")
		w.must(err)
	}
	pools, err := w.store.Pools(w.Context())
	w.must(err)
	for _, pool := range pools {
		pool.DelegateAddresses = addressRange()
		w.must(w.store.UpdatePool(w.Context(), pool))
	}
	w.request.Method = ""
}

// TestStandard copies three disks, one of them of an odd size, then everything again over what has changed. The manifests let runs with
// delegates trust what was copied, and the other way round.
func TestStandard(t *testing.T) {
	w := newBareWorld(t, layout{sizes: []int64{16 * mib, 6 * mib}})
	const odd = 5*mib + 512
	w.addOddDisk(odd)
	plan, err := w.engine.Plan(t.Context(), w.request)
	if err != nil || len(plan.Findings) > 0 || len(plan.Placement.Delegates) > 0 || plan.Method != report.Standard {
		t.Fatalf("planned %+v, %v", plan, err)
	}
	run := w.replicate()
	w.equal()
	w.tidy(1)
	if d := run.Disks[0]; run.Method != report.Standard || d.Read != 8*mib || d.Sent != 8*mib || d.Zero != 8*mib || d.Verified != 4*mib || d.Wire < 16*mib {
		t.Errorf("a first copy by %s: %+v", run.Method, d)
	}
	if d := run.Disks[2]; d.LogicalSize != odd || d.Sent != odd {
		t.Errorf("the odd disk: %+v", d)
	}
	if !hasEvent(run, "standard") || w.simB.Calls("Async.VM.start_on") != 0 || w.simA.Calls("Async.VDI.clone") != 0 {
		t.Errorf("events %v", run.Events)
	}

	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 2*mib, make([]byte, 3*mib)) // zeroes must be written now, blocks that nobody holds included
	w.must(os.Truncate(w.simA.VDIPath(w.vm.VDIs[1]), 0))
	w.must(os.Truncate(w.simA.VDIPath(w.vm.VDIs[1]), 6*mib))
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 12*mib, []byte("new"))
	w.request.Trust, w.request.ReadBack = true, replication.ReadBackFull
	run = w.replicate()
	w.equal()
	w.tidy(2)
	if d := run.Disks[0]; d.Sent != 16*mib || d.Zero != 0 || d.Verified != 16*mib || !hasEvent(run, "trust-unused") {
		t.Errorf("a second copy: %+v, events %v", d, run.Events)
	}
	if d := run.Disks[1]; d.Read != 0 || d.Sent != 6*mib {
		t.Errorf("a disk that became empty: %+v", d)
	}

	w.deploy()
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 5*mib, []byte("changed after the copy"))
	w.request.ReadBack = replication.ReadBackFull // by the manifest, which comes of the copy's
	run = w.replicate()
	w.equal()
	if d := run.Disks[0]; run.Method != report.Enhanced || d.Mode != report.Trusted || d.ReadTarget > d.Verified+mib || d.Sent > mib {
		t.Errorf("a trusted run over a copy: %s, %+v", run.Method, d)
	}
	verified, err := w.engine.Verify(t.Context(), replication.VerifyRequest{Replica: w.record().ID, Target: w.b})
	if err != nil || !verified.Equal() {
		t.Errorf("verified %+v, %v", verified, err)
	}
	w.request.Method = report.Standard
	w.replicate()
	w.equal()
	w.request.Method = report.Enhanced
	if run := w.replicate(); run.Disks[0].Mode != report.Trusted || run.Disks[0].Sent != 0 {
		t.Errorf("with nothing changed: %+v", run.Disks[0])
	}
	w.tidy(replication.DefaultRetention)
}

// altering is an API that exports other things.
type altering struct {
	xapi.API
	export func(o xapi.DiskExport, read func(io.Reader) error) error // without an error: as ever
}

func (a altering) ExportDisk(ctx context.Context, o xapi.DiskExport, read func(io.Reader) error) error {
	if err := a.export(o, read); err != nil {
		return err
	}
	return a.API.ExportDisk(ctx, o, read)
}

// TestStandardOnRawStorage: new volumes hold garbage, and are rounded up. None of that may be left, behind the source's size neither;
// nor what an older version of the source had. The source's pool exports no VHD the second time.
func TestStandardOnRawStorage(t *testing.T) {
	w := newBareWorld(t, layout{sizes: []int64{6 * mib}, target: "lvm", garbage: true})
	w.addOddDisk(3*mib + 1024)
	run := w.replicate()
	w.equal()
	w.tidy(1)
	for i := range w.vm.VDIs {
		content, err := os.ReadFile(w.replicaPath(i))
		w.must(err)
		if rest := content[w.record().Disks[i].LogicalSize:]; len(bytes.Trim(rest, "\x00")) > 0 || i == 1 && len(rest) == 0 {
			t.Errorf("disk %d: %d bytes behind the logical size are not all zero", i, len(rest))
		}
	}
	if d := run.Disks[0]; d.Sent != 6*mib || d.Read != 4*mib {
		t.Errorf("a first copy to a raw volume: %+v", d)
	}
	path := w.simA.VDIPath(w.vm.VDIs[0])
	w.must(os.Truncate(path, 0))
	w.must(os.Truncate(path, 6*mib))
	w.write(path, 5*mib, []byte("new"))
	source := *w.a
	source.API = altering{API: w.a.API, export: func(o xapi.DiskExport, read func(io.Reader) error) error {
		if o.Format != "vhd" {
			return nil
		}
		return read(strings.NewReader("QFI\xfb" + strings.Repeat("qcow2", 400)))
	}}
	w.request.Source = &source
	run = w.replicate()
	w.equal()
	w.tidy(2)
	if d := run.Disks[0]; d.Read != 6*mib || !hasEvent(run, "raw-export") {
		t.Errorf("a raw export: %+v, events %v", d, run.Events)
	}
}

// TestStandardFails: whatever fails, early, in the middle or late, the run commits nothing, leaves nothing behind and the restore point
// as it was; the next one is complete.
func TestStandardFails(t *testing.T) {
	w := newBareWorld(t, layout{sizes: []int64{8 * mib, 8 * mib}})
	w.request.Retention = 1
	w.replicate()
	committed := w.points()[0]
	want := w.content(committed)
	broken := &xapisim.Error{Code: "SR_BACKEND_FAILURE_200", Params: []string{"", "injected", ""}}
	second := w.record().Disks[1].TargetVDI
	w.fill(w.vm.VDIs[0], 8*mib, 3)
	w.fill(w.vm.VDIs[1], 8*mib, 4)
	for i, c := range []struct {
		sim  *xapisim.Pool
		rule xapisim.Rule
	}{
		{w.simA, xapisim.Rule{Method: exporting, After: 1, Error: broken}},
		{w.simA, xapisim.Rule{Method: exporting, After: 1, CutAfter: 5 * mib}},
		{w.simB, xapisim.Rule{Method: importing, Object: second, After: 1, Error: broken}}, // the task fails, the host had said that all is well
		{w.simB, xapisim.Rule{Method: importing, Object: second, After: 1, CutAfter: 5 * mib}},
		{w.simB, xapisim.Rule{Method: "VM.snapshot", Error: broken}},
	} {
		c.rule.Count = 1
		remove := c.sim.Fault(c.rule)
		run, err := w.engine.Replicate(t.Context(), w.request)
		remove()
		if err == nil || run.State != report.StateFailed || c.rule.Error != nil && !xapi.IsCode(err, broken.Code) {
			t.Errorf("fault %d: the run is %s, %v", i, run.State, err)
		}
		w.isUndone(committed, want)
	}

	// What storage does not give back.
	w.request.ReadBack = replication.ReadBackFull
	w.engine.SetReach(func(border string) {
		if border == "before read back" {
			w.write(w.replicaPath(0), 5*mib, []byte("rot"))
		}
	})
	_, err := w.engine.Replicate(t.Context(), w.request)
	var damage *replication.DamagedError
	if !errors.As(err, &damage) || damage.Disk != "0" || damage.Count != 1 || damage.First[0].Offset != 4*mib {
		t.Errorf("a damaged copy: %v", err)
	}
	w.isUndone(committed, want)

	// Cancelled while it sends, at the rate of the limit.
	w.request.ReadBack = ""
	w.request.Limit = ratelimit.Schedule{{BytesPerSecond: 4 * mib}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	before := w.simB.Calls(importing)
	w.engine.SetReach(nil)
	w.when(func() bool { return w.simB.Calls(importing) > before+3 }, cancel)
	run, err := w.engine.Replicate(ctx, w.request)
	if !errors.Is(err, context.Canceled) || run.State != report.StateCancelled { // that would have sent for four seconds
		t.Errorf("cancelled: the run is %s, %v", run.State, err)
	}
	w.isUndone(committed, want)

	run = w.replicate()
	w.equal()
	w.tidy(1)
	i := slices.IndexFunc(run.Phases, func(p report.PhaseTime) bool { return p.Phase == report.PhaseTransfer })
	if took := run.Phases[i].Finished.Sub(run.Phases[i].Started); took < 3*time.Second || !hasEvent(run, "limit") {
		t.Errorf("16 MiB took %v at 4 MiB/s", took)
	}
}

// isUndone checks that a run has come to nothing.
func (w *world) isUndone(committed xapi.VM, content string) {
	w.Helper()
	w.tidy(1)
	if points := w.points(); len(points) != 1 || points[0].UUID != committed.UUID || w.content(points[0]) != content {
		w.Error("the restore point is not what was committed")
	}
	for _, d := range w.record().Disks {
		if !d.State.Dirty {
			w.Errorf("disk %s is %s", d.Disk, d.State)
		}
	}
	if w.Failed() {
		w.FailNow()
	}
}

// TestStandardHolds: a replica that somebody used is not written; neither is a run committed in which somebody could have written.
func TestStandardHolds(t *testing.T) {
	w := newBareWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	vm, _ := w.replicaVM()
	unblocked := func() {
		w.must(w.b.API.Call(t.Context(), "VM.set_blocked_operations", nil, vm, map[string]string{}))
		w.must(w.b.API.Run(t.Context(), "VM.start", nil, vm, false, false))
		w.must(w.b.API.Run(t.Context(), "VM.hard_shutdown", nil, vm))
	}
	held := func(rung replica.Rung, what string) {
		t.Helper()
		before := w.simB.Calls(importing)
		_, err := w.engine.Replicate(t.Context(), w.request)
		var hold *replication.HeldError
		if !errors.As(err, &hold) || hold.Rung != string(rung) || w.simB.Calls(importing) != before {
			t.Errorf("%s: %v, and %d imports", what, err, w.simB.Calls(importing)-before)
		}
	}
	w.write(w.replicaPath(0), 3*mib, []byte("somebody was here"))
	held(replica.RungEmptyLeaf, "written past every marker")
	w.resync()

	after := func(act func()) error {
		t.Helper()
		w.engine.SetReach(func(border string) {
			if border == "after copy" {
				act()
			}
		})
		defer w.engine.SetReach(nil)
		_, err := w.engine.Replicate(t.Context(), w.request)
		return err
	}
	other, err := w.simB.AddVM(xapisim.VMConfig{Name: "other"})
	w.must(err)
	err = after(func() { w.attach(w.b.API, xapi.Ref(other.Ref), w.record().Disks[0].TargetVDI, "0") })
	if !errors.Is(err, replication.ErrChanged) {
		t.Errorf("attached to another VM while the run was under way: %v", err)
	}
	lent, err := xapi.GetRecord[xapi.VM](t.Context(), w.b.API, "VM", xapi.Ref(other.Ref))
	w.must(err)
	w.must(w.b.API.Call(t.Context(), "VBD.destroy", nil, lent.VBDs[0]))
	var hold *replication.HeldError
	if err := after(unblocked); !errors.As(err, &hold) {
		t.Errorf("started while the run was under way: %v", err)
	}
	held(replica.RungPower, "started and halted")
	w.tidy(1)
}

// TestStandardFindings: what is about delegates is no matter of this method, the rest is; and the enhanced method names it where only
// delegates are missing.
func TestStandardFindings(t *testing.T) {
	w := newBareWorld(t, layout{sizes: []int64{4 * mib}})
	undo := targetLies(func(p *xapi.Pool) { p.Restrictions = map[string]string{"restrict_vm_start": "true"} })(w)
	if _, err := w.engine.Plan(t.Context(), w.request); err != nil {
		t.Errorf("without a licence for starting VMs: %v", err)
	}
	named := func(want bool, codes ...string) {
		t.Helper()
		_, err := w.engine.Plan(t.Context(), w.request)
		var infeasible *placement.Infeasible
		if !errors.As(err, &infeasible) {
			t.Fatalf("planned: %v", err)
		}
		var found []string
		for _, f := range infeasible.Findings {
			found = append(found, f.Code)
			if is := strings.Contains(f.Mend, "--method standard"); is != want {
				t.Errorf("%s: %s", f.Code, f.Mend)
			}
		}
		if !slices.Equal(found, codes) {
			t.Errorf("found %v, want %v", found, codes)
		}
	}
	w.request.Method = report.Enhanced
	named(true, "image-missing", "image-missing", "licence", "no-addresses", "no-addresses")
	undo()
	defer unplugged("target")(w)()
	named(false, "image-missing", "image-missing", "sr-unplugged", "no-addresses", "no-addresses")
	w.request.Method = report.Standard
	named(false, "sr-unplugged")
	w.request.Method = "faster"
	if _, err := w.engine.Plan(t.Context(), w.request); err == nil || !strings.Contains(err.Error(), "enhanced or standard") {
		t.Errorf("an unknown method: %v", err)
	}
}
