package placement_test

import (
	"fmt"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	mib = int64(1) << 20
	gib = int64(1) << 30
)

// builder makes an inventory by hand. References and uuids are made from names.
type builder struct{ *inventory.Pool }

func newPool(name string) builder {
	return builder{&inventory.Pool{
		UUID: "uuid-" + name, Name: name,
		Hosts: map[xapi.Ref]xapi.Host{}, HostMetrics: map[xapi.Ref]xapi.HostMetrics{}, FreeMemory: map[xapi.Ref]int64{},
		SRs: map[xapi.Ref]xapi.SR{}, PBDs: map[xapi.Ref]xapi.PBD{}, VMs: map[xapi.Ref]xapi.VM{}, VBDs: map[xapi.Ref]xapi.VBD{}, VDIs: map[xapi.Ref]xapi.VDI{},
	}}
}

func (b builder) host(name string, free int64, srs ...string) {
	ref := xapi.Ref(name)
	b.Hosts[ref] = xapi.Host{UUID: "uuid-" + name, NameLabel: name, Enabled: true, Metrics: ref}
	b.HostMetrics[ref] = xapi.HostMetrics{Live: true}
	b.FreeMemory[ref] = free
	for _, sr := range srs {
		b.PBDs[xapi.Ref(name+"-"+sr)] = xapi.PBD{Host: ref, SR: xapi.Ref(sr), CurrentlyAttached: true}
	}
}

func (b builder) sr(name, kind string, size, used int64) {
	b.SRs[xapi.Ref(name)] = xapi.SR{UUID: "uuid-" + name, NameLabel: name, Type: kind, PhysicalSize: size, PhysicalUtilisation: used}
}

// vm adds a VM with a disk of a size on each SR.
func (b builder) vm(name string, size int64, srs ...string) {
	vm := xapi.VM{UUID: "uuid-" + name, NameLabel: name, PowerState: xapi.Running}
	for i, sr := range srs {
		disk := fmt.Sprintf("%s-%d", name, i)
		b.VDIs[xapi.Ref(disk)] = xapi.VDI{UUID: "uuid-" + disk, NameLabel: disk, SR: xapi.Ref(sr), VirtualSize: size}
		b.VBDs[xapi.Ref(disk)] = xapi.VBD{VM: xapi.Ref(name), VDI: xapi.Ref(disk), UserDevice: fmt.Sprint(i), Type: xapi.TypeDisk}
		vm.VBDs = append(vm.VBDs, xapi.Ref(disk))
	}
	b.VMs[xapi.Ref(name)] = vm
}

// image deploys a delegate image to an SR.
func (b builder) image(name, version, sr string) {
	b.vm(name, 64*mib, sr)
	vm := b.VMs[xapi.Ref(name)]
	vm.IsATemplate, vm.PowerState = true, xapi.Halted
	vm.MemoryStaticMax, vm.MemoryOverhead, vm.VIFs = 256*mib, 4*mib, []xapi.Ref{"vif"}
	vm.OtherConfig = map[string]string{"understudy:kind": "delegate-template", "understudy:version": version, "understudy:self": vm.UUID}
	b.VMs[xapi.Ref(name)] = vm
}
