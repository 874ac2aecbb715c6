package replication_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// altered is an API whose reads tell something else: what a simulated pool cannot be brought to.
type altered struct {
	xapi.API
	alter func(result any)
}

func (a altered) Call(ctx context.Context, method string, result any, args ...any) error {
	err := a.API.Call(ctx, method, result, args...)
	if err == nil {
		a.alter(result)
	}
	return err
}

// alter changes every record of a class that a pool is read by.
func alter[T any](change func(*T)) func(result any) {
	return func(result any) {
		if records, ok := result.(*map[xapi.Ref]T); ok {
			for ref, record := range *records {
				change(&record)
				(*records)[ref] = record
			}
		}
	}
}

// broken is a set-up with something amiss.
type broken struct {
	name  string
	spoil func(w *world) (undo func())
	want  string // severity, code and subject of each finding
	mend  string // a part of the first one's
}

// sourceLies and targetLies have a pool's records altered.
func sourceLies[T any](change func(*T)) func(*world) func() {
	return func(w *world) func() {
		pool, was := *w.a, w.request.Source
		pool.API = altered{w.a.API, alter(change)}
		w.request.Source = &pool
		return func() { w.request.Source = was }
	}
}

func targetLies[T any](change func(*T)) func(*world) func() {
	return func(w *world) func() {
		pool, was := *w.b, w.request.Target
		pool.API = altered{w.b.API, alter(change)}
		w.request.Target = &pool
		return func() { w.request.Target = was }
	}
}

// plug plugs or unplugs an SR of the target pool on all hosts.
func (w *world) plug(call, sr string) {
	w.Helper()
	pbds, err := xapi.AllRecords[xapi.PBD](w.Context(), w.b.API, "PBD")
	w.must(err)
	for ref, pbd := range pbds {
		var name string
		w.must(w.b.API.Call(w.Context(), "SR.get_name_label", &name, pbd.SR))
		if name == sr {
			w.must(w.b.API.Call(w.Context(), call, nil, ref))
		}
	}
}

func unplugged(sr string) func(*world) func() {
	return func(w *world) func() {
		w.plug("PBD.unplug", sr)
		return func() { w.plug("PBD.plug", sr) }
	}
}

// template is the delegates' template in the target pool.
func (w *world) template() xapi.Ref {
	w.Helper()
	vms, err := xapi.AllRecords[xapi.VM](w.Context(), w.b.API, "VM")
	w.must(err)
	for ref, vm := range vms {
		if vm.OtherConfig["understudy:kind"] == "delegate-template" {
			return ref
		}
	}
	w.Fatal("pool b has no template")
	return ""
}

// addresses gives the target pool's delegates another range.
func (w *world) addresses(ranges string) (undo func()) {
	w.Helper()
	pool, err := w.store.Pool(w.Context(), "b")
	w.must(err)
	was := pool.DelegateAddresses
	pool.DelegateAddresses = ranges
	w.must(w.store.UpdatePool(w.Context(), pool))
	return func() {
		pool.DelegateAddresses = was
		w.must(w.store.UpdatePool(w.Context(), pool))
	}
}

// replicating names a VM of its own as the one to replicate.
func replicating(config xapisim.VMConfig, spoil func(w *world, vm xapisim.Added)) func(*world) func() {
	return func(w *world) func() {
		vm, err := w.simA.AddVM(config)
		w.must(err)
		if spoil != nil {
			spoil(w, vm)
		}
		was := w.request.VM
		w.request.VM = vm.UUID
		return func() { w.request.VM = was }
	}
}

// snapshots makes so many of a VM's first disk, which is written before each.
func snapshots(n int) func(*world, xapisim.Added) {
	return func(w *world, vm xapisim.Added) {
		disk, err := xapi.GetByUUID(w.Context(), w.a.API, "VDI", vm.VDIs[0])
		w.must(err)
		for i := range n {
			w.write(w.simA.VDIPath(vm.VDIs[0]), int64(i)<<16, []byte("written before the snapshot"))
			w.call(w.a.API, "VDI.snapshot", disk, map[string]string{})
		}
	}
}

func oneDisk(name string) xapisim.VMConfig {
	return xapisim.VMConfig{Name: name, Disks: []xapisim.DiskConfig{{Size: 4 * mib, SR: "source"}}}
}

func (w *world) call(api xapi.API, method string, args ...any) {
	w.Helper()
	w.must(api.Call(w.Context(), method, nil, args...))
}

var brokenSetUps = []broken{
	{
		name: "image not deployed", want: "error image-missing pool b", mend: "delegate deploy",
		spoil: func(w *world) func() {
			ref := w.template()
			w.call(w.b.API, "VM.remove_from_other_config", ref, "understudy:kind")
			return func() { w.call(w.b.API, "VM.add_to_other_config", ref, "understudy:kind", "delegate-template") }
		},
	},
	{
		name: "image of another protocol", want: "error image-protocol pool b", mend: "--upgrade",
		spoil: func(w *world) func() {
			ref := w.template()
			w.call(w.b.API, "VM.add_to_other_config", ref, "understudy:protocol", "99")
			return func() { w.call(w.b.API, "VM.remove_from_other_config", ref, "understudy:protocol") }
		},
	},
	{
		name: "no addresses", want: "error no-addresses pool b", mend: "--delegate-addresses",
		spoil: func(w *world) func() { return w.addresses("") },
	},
	{
		name: "addresses leased", want: "error addresses-leased pool b", mend: "widen the range",
		spoil: func(w *world) func() {
			undo := w.addresses("10.9.8.7/24")
			pool, err := w.store.Pool(w.Context(), "b")
			w.must(err)
			run, err := w.store.BeginRun(w.Context(), "", state.RunTest, report.Run{Direction: report.Push, Trust: report.TrustVerify})
			w.must(err)
			ranges, err := placement.ParseAddresses(pool.DelegateAddresses)
			w.must(err)
			_, err = w.store.Lease(w.Context(), pool.UUID, run.Report.ID, ranges.All())
			w.must(err)
			return func() {
				w.must(w.store.ReleaseRun(w.Context(), run.Report.ID))
				undo()
			}
		},
	},
	{
		name: "SR not plugged", want: "error sr-unseen host b-host0, error sr-unseen host b-host1, error sr-unplugged SR target", mend: "plug",
		spoil: unplugged("target"),
	},
	{
		name: "image's SR not plugged", want: "error image-sr-unseen host b-host0, error image-sr-unseen host b-host1", mend: "this host sees",
		spoil: unplugged("images"),
	},
	{
		name: "hosts in maintenance", want: "error host-disabled host b-host0, error host-disabled host b-host1", mend: "enable",
		spoil: targetLies(func(h *xapi.Host) { h.Enabled = false }),
	},
	{
		name: "hosts down", want: "error host-down host b-host0, error host-down host b-host1", mend: "bring it back",
		spoil: targetLies(func(m *xapi.HostMetrics) { m.Live = false }),
	},
	{
		name: "no memory", want: "error host-memory host b-host0, error host-memory host b-host1", mend: "free memory",
		spoil: targetLies(func(vm *xapi.VM) { vm.MemoryStaticMax = 1 << 50 }),
	},
	{
		name: "thin SR nearly full", want: "error space SR target", mend: "enlarge",
		spoil: func(w *world) func() {
			w.must(w.simB.Lie(xapisim.Lie{Kind: "fill", Object: "target", Free: 64 * mib}))
			return func() { w.must(w.simB.Lie(xapisim.Lie{Kind: "fill", Object: "target", Free: 1 << 50})) }
		},
	},
	{
		name: "thick SR without room", want: "error space SR target", mend: "thin SR",
		spoil: targetLies(func(sr *xapi.SR) {
			if sr.NameLabel == "target" {
				sr.Type, sr.PhysicalSize, sr.PhysicalUtilisation = "lvm", 8*mib, 6*mib
			}
		}),
	},
	{
		name: "thick source SR without room for snapshot and clone", want: "error space SR source", mend: "thin SR",
		spoil: sourceLies(func(sr *xapi.SR) {
			if sr.NameLabel == "source" {
				sr.Type, sr.PhysicalSize, sr.PhysicalUtilisation = "lvm", 32*mib, 26*mib
			}
		}),
	},
	{
		name: "SR not scanned", want: "warning sr-unscanned SR target", mend: "scan",
		spoil: targetLies(func(sr *xapi.SR) {
			if sr.NameLabel == "target" {
				sr.PhysicalSize = -1
			}
		}),
	},
	{
		name: "network without a partner", want: "warning network-unmapped interface 0 of VM web", mend: "name one that exists",
		spoil: func(w *world) func() {
			w.request.NetworkMap = map[string]string{"Pool-wide network 0": "no such network"}
			return func() { w.request.NetworkMap = nil }
		},
	},
	{
		name: "disk too large for a VHD", want: "error disk-too-large disk 0", mend: "another format",
		spoil: sourceLies(func(vdi *xapi.VDI) {
			if vdi.NameLabel == "web 0" {
				vdi.VirtualSize = 3 << 40
			}
		}),
	},
	{
		name: "licence without VM.start", want: "error licence pool b", mend: "licence",
		spoil: func(w *world) func() {
			w.must(w.simB.Restrict("VM_start", "CBT", "Checkpoint"))
			return func() { w.must(w.simB.Restrict()) }
		},
	},
	{
		name: "licence expired", want: "warning licence-expired host a-host0, warning licence-expired host a-host1", mend: "renew",
		spoil: sourceLies(func(h *xapi.Host) { h.LicenseParams = map[string]string{"expiry": "20200101T00:00:00Z"} }),
	},
	{
		name: "release too old", want: "error version host b-host0, error version host b-host1", mend: "upgrade",
		spoil: targetLies(func(h *xapi.Host) { h.APIVersionMinor = 3 }),
	},
	{
		name: "pool in the middle of an upgrade", want: "error pool-upgrading pool a", mend: "end the upgrade",
		spoil: sourceLies(func(h *xapi.Host) {
			if h.NameLabel == "a-host0" {
				h.APIVersionMinor = 23
			}
		}),
	},
	{
		name: "host of the VM down", want: "error vm-host-down VM web", mend: "start the VM elsewhere",
		spoil: func(w *world) func() {
			hosts, err := xapi.AllRecords[xapi.Host](w.Context(), w.a.API, "host")
			w.must(err)
			var resident, metrics xapi.Ref
			for ref, h := range hosts {
				if h.NameLabel == "a-host1" {
					resident, metrics = ref, h.Metrics
				}
			}
			pool, was := *w.a, w.request.Source
			pool.API = altered{w.a.API, func(result any) {
				alter(func(vm *xapi.VM) {
					if vm.NameLabel == "web" {
						vm.PowerState, vm.ResidentOn = xapi.Running, resident
					}
				})(result)
				if records, ok := result.(*map[xapi.Ref]xapi.HostMetrics); ok {
					(*records)[metrics] = xapi.HostMetrics{}
				}
			}}
			w.request.Source = &pool
			return func() { w.request.Source = was }
		},
	},
	{
		name: "snapshots blocked", want: "error snapshot-blocked VM blocked", mend: "unblock",
		spoil: replicating(oneDisk("blocked"), func(w *world, vm xapisim.Added) {
			w.call(w.a.API, "VM.set_blocked_operations", vm.Ref, map[string]string{"snapshot": "hands off"})
		}),
	},
	{
		name: "VM being exported", want: "error vm-busy VM web", mend: "wait",
		spoil: sourceLies(func(vm *xapi.VM) { vm.CurrentOperations = map[string]xapi.VMOperation{"task": xapi.VMOperationExport} }),
	},
	{
		name: "VM being snapshotted", want: "warning snapshot-running VM web", mend: "another job",
		spoil: sourceLies(func(vm *xapi.VM) {
			vm.CurrentOperations = map[string]xapi.VMOperation{"task": xapi.VMOperationSnapshot}
		}),
	},
	{
		name: "VM without disks", want: "error no-disk VM diskless", mend: "attach", spoil: replicating(xapisim.VMConfig{Name: "diskless"}, nil),
	},
	{
		name: "shared disk", want: "error disk-sharable disk 0", mend: "detach",
		spoil: sourceLies(func(vdi *xapi.VDI) { vdi.Sharable = true }),
	},
	{
		name: "lost disk", want: "error disk-missing disk 0", mend: "scan",
		spoil: sourceLies(func(vdi *xapi.VDI) { vdi.Missing = true }),
	},
	{
		name: "chain too long", want: "error chain-long disk 0", mend: "remove snapshots",
		spoil: replicating(oneDisk("chained"), snapshots(29)),
	},
	{
		name: "merge pending", want: "warning coalesce-pending disk 0", mend: "garbage collector",
		spoil: func(w *world) func() {
			undo := replicating(oneDisk("unmerged"), snapshots(2))(w)
			tell := sourceLies(func(vdi *xapi.VDI) {
				if vdi.IsASnapshot { // as if they were gone, and the volumes below them not yet merged
					vdi.SMConfig = nil
				}
			})(w)
			return func() {
				tell()
				undo()
			}
		},
	},
	{
		name: "unknown VM and SRs", want: "error not-found pool a, error not-found pool b, error not-found pool b", mend: "name one that exists",
		spoil: func(w *world) func() {
			was := w.request
			w.request.VM, w.request.SR, w.request.DiskSRs = "wev", "targets", map[string]string{"0": "fsat"}
			return func() { w.request = was }
		},
	},
}

// finds checks what a request finds, and shows it.
func (w *world) finds(c broken) {
	w.Helper()
	undo := c.spoil(w)
	defer undo()
	plan, err := w.engine.Plan(w.Context(), w.request)
	found := append(replication.Findings(err), plan.Findings...)
	var got []string
	for _, f := range found {
		subject, _, _ := strings.Cut(f.Subject, " (")
		got = append(got, fmt.Sprintf("%s %s %s", f.Severity, f.Code, subject))
		w.Logf("%s: %s %s\n  %s\n  → %s", c.name, f.Severity, f.Code, f.Cause, f.Mend)
	}
	if text := strings.Join(got, ", "); text != c.want {
		w.Errorf("%s: found %q, want %q", c.name, text, c.want)
		return
	}
	if f := found[0]; f.Cause == "" || !strings.Contains(f.Mend, c.mend) {
		w.Errorf("%s: mend %q lacks %q", c.name, f.Mend, c.mend)
	}
	if (err != nil) != report.Errors(found) {
		w.Errorf("%s: %v", c.name, err)
	}
}

// TestFindings: every set-up with something amiss is told from every other by its code, and says what mends it.
func TestFindings(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	for _, c := range brokenSetUps {
		w.finds(c)
	}
	if plan, err := w.engine.Plan(t.Context(), w.request); err != nil || len(plan.Findings) != 0 {
		t.Errorf("with everything mended: %v, %v", plan.Findings, err)
	}
	// All at once, errors and warnings: nobody has to mend one to hear of the next.
	for _, i := range []int{2, 9, 15, 20} {
		defer brokenSetUps[i].spoil(w)()
	}
	w.request.NetworkMap = map[string]string{"Pool-wide network 0": "no such network"}
	_, err := w.engine.Replicate(t.Context(), w.request)
	codes := map[string]bool{}
	for _, f := range replication.Findings(err) {
		codes[f.Code] = true
	}
	for _, code := range []string{"no-addresses", "space", "licence", "snapshot-blocked", "network-unmapped"} {
		if !codes[code] {
			t.Errorf("%s is not among %v", code, codes)
		}
	}
	if strings.Contains(err.Error(), "no such network") {
		t.Errorf("a warning is told as an error: %v", err)
	}
}

// TestFindingsOfTheReplica: the same of one that is there.
func TestFindingsOfTheReplica(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	ref, record := w.replicaVM()
	nothing := func() {}
	for _, c := range []broken{
		{
			name: "not to be overwritten", want: "error replica-exists replica VM web", mend: "allow",
			spoil: func(w *world) func() {
				w.request.OverwriteTarget = false
				return func() { w.request.OverwriteTarget = true }
			},
		},
		{
			name: "disk wanted elsewhere", want: "warning disk-elsewhere disk 0 of the replica", mend: "moves no disk",
			spoil: func(w *world) func() {
				w.request.DiskSRs = map[string]string{"0": "images"}
				return func() { w.request.DiskSRs = nil }
			},
		},
		{
			name: "attached to a control domain", mend: "keep it under another name",
			want: "error replica-diverged replica VM " + record.UUID + ", error held-by-control-domain disk 0 of the replica",
			spoil: func(w *world) func() {
				vms, err := xapi.AllRecords[xapi.VM](w.Context(), w.b.API, "VM")
				w.must(err)
				for dom0, vm := range vms {
					if vm.IsControlDomain {
						w.attach(w.b.API, dom0, w.record().Disks[0].TargetVDI, "5")
						return func() {
							var vbds []xapi.Ref
							w.must(w.b.API.Call(w.Context(), "VM.get_VBDs", &vbds, dom0))
							w.call(w.b.API, "VBD.destroy", vbds[0])
						}
					}
				}
				return nothing
			},
		},
		{
			name: "not ours", want: "error replica-stranger replica VM " + record.UUID, mend: "remove what stands in its place",
			spoil: func(w *world) func() {
				w.must(xapi.SetOtherConfigKey(w.Context(), w.b.API, "VM", ref, "understudy:self", w.vm.UUID))
				return func() {
					w.must(xapi.SetOtherConfigKey(w.Context(), w.b.API, "VM", ref, "understudy:self", record.UUID))
				}
			},
		},
		{
			name: "running", want: "error replica-running replica VM " + record.UUID, mend: "keep it under another name",
			spoil: func(w *world) func() {
				w.call(w.b.API, "VM.set_blocked_operations", ref, map[string]string{})
				w.must(w.b.API.Run(w.Context(), "VM.start", nil, ref, false, false))
				return func() { w.must(w.b.API.Run(w.Context(), "VM.hard_shutdown", nil, ref)) }
			},
		},
		{
			name: "it has run", want: "error replica-diverged replica VM " + record.UUID, mend: "keep it under another name",
			spoil: func(*world) func() { return nothing },
		},
	} {
		w.finds(c)
	}
	var held *replication.HeldError
	if _, err := w.engine.Replicate(t.Context(), w.request); !errors.As(err, &held) || !held.Diverged {
		t.Errorf("a run of it gave %v", err)
	}
}

// TestDisksOnSeveralSRs: a disk that is wanted on an SR of its own is made there, and replicated to.
func TestDisksOnSeveralSRs(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib, 4 * mib}})
	w.request.DiskSRs = map[string]string{"1": "images"}
	run := w.replicate()
	w.equal()
	for i, want := range []string{"target", "images"} {
		ref, err := xapi.GetByUUID(t.Context(), w.b.API, "VDI", w.record().Disks[i].TargetVDI)
		w.must(err)
		var sr xapi.Ref
		var name string
		w.must(w.b.API.Call(t.Context(), "VDI.get_SR", &sr, ref))
		w.must(w.b.API.Call(t.Context(), "SR.get_name_label", &name, sr))
		if name != want {
			t.Errorf("disk %d is on SR %s, not %s", i, name, want)
		}
	}
	w.write(w.simA.VDIPath(w.vm.VDIs[1]), mib, []byte("newer"))
	w.request.DiskSRs = nil // it stays where it is
	run = w.replicate()
	w.equal()
	if !hasEvent(run, replication.CodeDiskElsewhere) {
		t.Errorf("events %v", run.Events)
	}
	verified, err := w.engine.Verify(t.Context(), replication.VerifyRequest{Replica: w.record().ID, Target: w.b})
	if err != nil || !verified.Equal() || len(verified.Disks) != 2 {
		t.Errorf("verified %+v, %v", verified, err)
	}
	w.tidy(2)
}
