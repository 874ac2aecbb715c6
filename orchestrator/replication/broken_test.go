package replication_test

import (
	"context"

	"github.com/understudy-dr/understudy/orchestrator/placement"
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
		name: "network of the delegates gone", want: "error delegate-network pool b", mend: "--delegate-network",
		spoil: func(w *world) func() {
			pool, err := w.store.Pool(w.Context(), "b")
			w.must(err)
			pool.DelegateNetwork = "none"
			w.must(w.store.UpdatePool(w.Context(), pool))
			return func() {
				pool.DelegateNetwork = ""
				w.must(w.store.UpdatePool(w.Context(), pool))
			}
		},
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
	{
		name: "pausing blocked", want: "error pause-refused VM web", mend: "unblock the operation 'unpause'",
		spoil: pausing(func(vm *xapi.VM) {
			vm.BlockedOperations = map[xapi.VMOperation]string{xapi.VMOperationUnpause: "hands off"}
		}),
	},
	{
		name: "pausing not allowed", want: "error pause-refused VM web", mend: "consistency disk",
		spoil: pausing(func(vm *xapi.VM) { vm.AllowedOperations = []xapi.VMOperation{xapi.VMOperationSnapshot} }),
	},
}

// pausing has the source run, with lies about it, and wants it paused.
func pausing(lie func(*xapi.VM)) func(w *world) func() {
	return func(w *world) func() {
		tell := sourceLies(func(vm *xapi.VM) {
			vm.PowerState = xapi.Running
			lie(vm)
		})(w)
		w.request.Consistency = report.ConsistencyPaused
		return func() {
			w.request.Consistency = ""
			tell()
		}
	}
}
