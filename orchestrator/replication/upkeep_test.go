package replication_test

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// setVM calls a VM's setter.
func (w *world) setVM(api xapi.API, vm xapi.Ref, setter string, args ...any) {
	w.Helper()
	w.must(api.Call(w.Context(), "VM."+setter, nil, slices.Concat([]any{vm}, args)...))
}

// told lists the texts of a run's events of a cause.
func told(run report.Run, cause string) (texts []string) {
	for _, e := range run.Events {
		if e.Cause == cause {
			texts = append(texts, e.Text)
		}
	}
	return texts
}

// sourceVM reads the source VM.
func (w *world) sourceVM() (xapi.Ref, xapi.VM) {
	w.Helper()
	vm, err := xapi.GetRecord[xapi.VM](w.Context(), w.a.API, "VM", xapi.Ref(w.vm.Ref))
	w.must(err)
	return xapi.Ref(w.vm.Ref), vm
}

// drive makes a CD drive of a VM, with a disk of its own in it when filled.
func (w *world) drive(api xapi.API, vm xapi.Ref, position string, vdi xapi.Ref) xapi.Ref {
	w.Helper()
	var ref xapi.Ref
	w.must(api.Call(w.Context(), "VBD.create", &ref, map[string]any{
		"VM": vm, "VDI": vdi, "userdevice": position, "bootable": false, "mode": "RO", "type": "CD", "empty": vdi.IsNull(),
		"other_config": map[string]string{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
	}))
	return ref
}

// interfaces gives the network and the address of each interface of a VM, by position.
func (w *world) interfaces(api xapi.API, vm xapi.VM) map[string][2]string {
	w.Helper()
	all := map[string][2]string{}
	for _, ref := range vm.VIFs {
		vif, err := xapi.GetRecord[xapi.VIF](w.Context(), api, "VIF", ref)
		w.must(err)
		var network string
		w.must(api.Call(w.Context(), "network.get_name_label", &network, vif.Network))
		all[vif.Device] = [2]string{network, vif.MAC}
	}
	return all
}

// drives gives the CD drives of a VM by position, and whether they are empty.
func (w *world) drives(api xapi.API, vm xapi.VM) map[string]bool {
	w.Helper()
	all := map[string]bool{}
	for _, ref := range vm.VBDs {
		vbd, err := xapi.GetRecord[xapi.VBD](w.Context(), api, "VBD", ref)
		w.must(err)
		if vbd.Type == xapi.TypeCD {
			all[vbd.UserDevice] = vbd.Empty
		}
	}
	return all
}

// network finds a network by name.
func (w *world) network(api xapi.API, name string) xapi.Ref {
	w.Helper()
	var refs []xapi.Ref
	w.must(api.Call(w.Context(), "network.get_by_name_label", &refs, name))
	if len(refs) != 1 {
		w.Fatalf("%d networks are called %q", len(refs), name)
	}
	return refs[0]
}

func (w *world) addVIF(api xapi.API, vm xapi.Ref, device, network, mac string) {
	w.Helper()
	_, err := xapi.MakeVIF(w.Context(), api, map[string]any{
		"device": device, "network": w.network(api, network), "VM": vm, "MAC": mac, "MTU": int64(1500),
		"other_config": map[string]string{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
	})
	w.must(err)
}

// TestReplicaFollowsItsSource changes everything that a replica has of its source, and what an administrator and others may do to a
// replica; the next run follows the one, leaves the other, and puts the protections back. The run after has nothing to follow.
func TestReplicaFollowsItsSource(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	source, _ := w.sourceVM()
	w.setVM(w.a.API, source, "add_tags", "gold")
	w.setVM(w.a.API, source, "set_name_description", "the web server")
	if run := w.replicate(); len(told(run, "followed"))+len(told(run, "not-followed"))+len(told(run, "protected")) != 0 {
		t.Errorf("making the replica told of changes: %v", run.Events)
	}
	ref, vm := w.replicaVM()
	if !slices.Equal(slices.Sorted(slices.Values(vm.Tags)), []string{"gold", replica.TagLeaveAlone}) || !strings.HasSuffix(vm.NameDescription, "the web server") {
		t.Errorf("made with tags %v, description %q", vm.Tags, vm.NameDescription)
	}

	w.setVM(w.a.API, source, "set_memory_limits", int64(256*mib), int64(512*mib), int64(512*mib), int64(512*mib))
	w.setVM(w.a.API, source, "set_VCPUs_max", int64(8))
	w.setVM(w.a.API, source, "set_VCPUs_at_startup", int64(8))
	w.setVM(w.a.API, source, "set_VCPUs_params", map[string]string{"weight": "512"})
	w.setVM(w.a.API, source, "set_platform", map[string]string{"secureboot": "true", "vga": "std"})
	w.setVM(w.a.API, source, "set_HVM_boot_params", map[string]string{"order": "dc", "firmware": "bios"})
	w.setVM(w.a.API, source, "set_NVRAM", map[string]string{"EFI-variables": strings.Repeat("QUJD", 100)})
	w.setVM(w.a.API, source, "set_has_vendor_device", false)
	w.setVM(w.a.API, source, "set_user_version", int64(7))
	w.setVM(w.a.API, source, "set_actions_after_crash", "preserve")
	w.setVM(w.a.API, source, "remove_tags", "gold")
	w.setVM(w.a.API, source, "add_tags", "silver, and more")
	w.setVM(w.a.API, source, "add_to_other_config", "base_template_name", "Debian")
	w.drive(w.a.API, source, "3", xapi.NullRef)
	const added = "02:00:00:00:00:77"
	w.addVIF(w.a.API, source, "5", "isolated", added)

	// What others do to the replica: some of it on purpose, some of it dangerous.
	w.setVM(w.b.API, ref, "set_name_label", "web, in Lyon")
	w.setVM(w.b.API, ref, "add_tags", "ours")
	w.setVM(w.b.API, ref, "add_to_other_config", "auto_poweron", "true")
	w.setVM(w.b.API, ref, "add_to_other_config", "cost-centre", "12")
	w.setVM(w.b.API, ref, "set_xenstore_data", map[string]string{"vm-data/role": "primary"})
	w.setVM(w.b.API, ref, "set_order", int64(3))
	w.setVM(w.b.API, ref, "set_blocked_operations", map[string]string{"destroy": "ask Ann"})
	w.addVIF(w.b.API, ref, "6", "isolated", "")

	w.request.Trust = true
	run := w.replicate()
	w.equal()
	_, from := w.sourceVM()
	_, vm = w.replicaVM()
	points := w.points()
	for what, is := range map[string]bool{
		"memory":      vm.MemoryStaticMax == 512*mib && vm.MemoryDynamicMin == from.MemoryDynamicMin && vm.MemoryStaticMin == from.MemoryStaticMin,
		"VCPUs":       vm.VCPUsMax == 8 && vm.VCPUsAtStartup == 8 && vm.VCPUsParams["weight"] == "512",
		"platform":    maps.Equal(vm.Platform, from.Platform) && vm.Platform["secureboot"] == "true",
		"boot":        maps.Equal(vm.HVMBootParams, from.HVMBootParams) && vm.HVMBootParams["firmware"] == "bios",
		"NVRAM":       maps.Equal(vm.NVRAM, from.NVRAM) && len(vm.NVRAM) == 1,
		"flags":       !vm.HasVendorDevice && vm.UserVersion == 7 && vm.ActionsAfterCrash == from.ActionsAfterCrash,
		"guest":       vm.OtherConfig["base_template_name"] == "Debian",
		"name":        vm.NameLabel == "web, in Lyon" && vm.OtherConfig["cost-centre"] == "12",
		"tags":        slices.Equal(slices.Sorted(slices.Values(vm.Tags)), []string{"ours", "silver, and more", replica.TagLeaveAlone}),
		"protections": vm.OtherConfig["auto_poweron"] == "" && len(vm.XenstoreData) == 0 && vm.Order <= 0 && vm.HARestartPriority == "",
		"blocks":      vm.BlockedOperations["destroy"] == "ask Ann" && vm.BlockedOperations["start"] != "",
		"interfaces":  maps.Equal(w.interfaces(w.b.API, vm), w.interfaces(w.a.API, from)) && w.interfaces(w.b.API, vm)["5"] == [2]string{"isolated", added},
		"drives":      maps.Equal(w.drives(w.b.API, vm), map[string]bool{"3": true}),
		"the restore point has it, too": points[0].MemoryStaticMax == 512*mib && len(w.drives(w.b.API, points[0])) == 1 &&
			points[1].MemoryStaticMax != 512*mib,
	} {
		if !is {
			t.Errorf("%s: not as it should be", what)
		}
	}
	if n := len(told(run, "followed")); n != 15 || len(told(run, "protected")) != 3 || len(told(run, "not-followed")) != 0 {
		t.Errorf("%d changes were told: %v", n, run.Events)
	}

	// Down again; a disk takes the place of the drive; an interface changes its network; what is refused stays and is told.
	w.setVM(w.a.API, source, "set_VCPUs_at_startup", int64(1))
	w.setVM(w.a.API, source, "set_VCPUs_max", int64(2))
	w.setVM(w.a.API, source, "set_domain_type", "pv")
	w.request.NetworkMap = map[string]string{"isolated": "Pool-wide network 0"}
	defer w.simB.Fault(xapisim.Rule{Method: "VM.set_domain_type", Error: &xapisim.Error{Code: "INVALID_VALUE", Params: []string{"domain_type", "pv"}}})()
	run = w.replicate()
	_, vm = w.replicaVM()
	if vm.VCPUsAtStartup != 1 || vm.VCPUsMax != 2 || w.interfaces(w.b.API, vm)["5"] != [2]string{"Pool-wide network 0", added} {
		t.Errorf("VCPUs %d of %d, interfaces %v", vm.VCPUsAtStartup, vm.VCPUsMax, w.interfaces(w.b.API, vm))
	}
	if texts := told(run, "not-followed"); len(texts) != 1 || !strings.Contains(texts[0], "domain type") || vm.DomainType != "hvm" {
		t.Errorf("domain type %s, told: %v", vm.DomainType, texts)
	}
	w.setVM(w.a.API, source, "set_domain_type", "hvm")

	w.request.NetworkMap = map[string]string{"isolated": "no such network"}
	run = w.replicate()
	if len(told(run, "followed"))+len(told(run, "not-followed"))+len(told(run, "protected")) != 0 || len(told(run, "network-unmapped")) != 1 {
		t.Errorf("with nothing to follow was told: %v", run.Events)
	}
	if _, vm = w.replicaVM(); len(vm.VIFs) != 2 {
		t.Errorf("%d interfaces", len(vm.VIFs))
	}
}

// TestDiskTakesTheDrivesPlace: the replica's CD drive stands where the source now has a disk.
func TestDiskTakesTheDrivesPlace(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib, 4 * mib}})
	w.request.NewMACs = true
	w.replicate()
	ref, vm := w.replicaVM()
	drawn := w.interfaces(w.b.API, vm)["0"]
	for _, vbd := range vm.VBDs {
		var position string
		w.must(w.b.API.Call(t.Context(), "VBD.get_userdevice", &position, vbd))
		if position == "1" {
			w.must(w.b.API.Call(t.Context(), "VBD.destroy", nil, vbd))
			w.drive(w.b.API, ref, "1", xapi.NullRef)
		}
	}
	w.request.NetworkMap = map[string]string{"Pool-wide network 0": "isolated"}
	w.replicate()
	w.equal()
	_, vm = w.replicaVM()
	if got := w.interfaces(w.b.API, vm)["0"]; got != [2]string{"isolated", drawn[1]} || len(w.drives(w.b.API, vm)) != 0 {
		t.Errorf("interface %v, was %v; drives %v", got, drawn, w.drives(w.b.API, vm))
	}
}

// TestVirtualTPM: never silently dropped.
func TestVirtualTPM(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	ref, _ := w.sourceVM()
	w.must(w.a.API.Call(t.Context(), "VTPM.create", nil, ref, false))
	var refused *replication.VTPMError
	if _, err := w.engine.Plan(t.Context(), w.request); !errors.As(err, &refused) || refused.UUID != w.vm.UUID {
		t.Errorf("planning gave %v", err)
	}
	if run, err := w.engine.Replicate(t.Context(), w.request); !errors.As(err, &refused) || run.ID != "" || w.simA.Calls("Async.VM.snapshot") != 0 {
		t.Errorf("replicating gave %v", err)
	}
	w.request.DropVTPM = true
	if run := w.replicate(); len(told(run, "vtpm-dropped")) != 1 {
		t.Errorf("events %v", run.Events)
	}
	w.equal()
}

// points are the restore points of the replica as the pool has them, the newest first.
func (w *world) points() []xapi.VM {
	w.Helper()
	ref, _ := w.replicaVM()
	vms, err := xapi.AllRecords[xapi.VM](w.Context(), w.b.API, "VM")
	w.must(err)
	var points []xapi.VM
	for _, vm := range vms {
		if marker, owner, _ := replica.Read(w.store.Installation().UUID, vm.UUID, vm.OtherConfig); owner == replica.Ours && marker.Kind == replica.KindRestorePoint && vm.SnapshotOf == ref {
			points = append(points, vm)
		}
	}
	slices.SortFunc(points, func(a, b xapi.VM) int {
		const made = "understudy:time" // the pool tells whole seconds
		return cmp.Or(b.SnapshotTime.Compare(a.SnapshotTime.Time), cmp.Compare(b.OtherConfig[made], a.OtherConfig[made]))
	})
	return points
}
