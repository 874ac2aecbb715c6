package placement_test

import (
	"errors"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

func TestPlaceClone(t *testing.T) {
	now := time.Now()
	world := func() builder {
		b := newPool("b")
		b.sr("thin", "nfs", 1000*mib, 100*mib)
		b.sr("thick", "lvm", 1000*mib, 900*mib)
		b.host("small", 200*mib, "thin", "thick")
		b.host("large", 900*mib, "thin", "thick")
		b.vm("point", 64*mib, "thin", "thick")
		vm := b.VMs["point"]
		vm.MemoryStaticMax, vm.MemoryOverhead = 256*mib, 4*mib
		b.VMs["point"] = vm
		for ref, host := range b.Hosts {
			host.APIVersionMajor, host.APIVersionMinor = 2, 21
			b.Hosts[ref] = host
		}
		return b
	}
	b := world()
	request := placement.CloneRequest{Pool: b.Pool, Of: "point", Start: true}
	if host, found, err := placement.PlaceClone(request, now); err != nil || host.Ref != "large" || len(found) != 0 {
		t.Errorf("placed on %+v, %+v, %v", host, found, err)
	}
	for name, c := range map[string]struct {
		code   string
		change func(builder, *placement.CloneRequest)
		asleep bool // it stands in the way of a clone that is not started, too
	}{
		"a host without the memory": {placement.CodeHostMemory, func(_ builder, r *placement.CloneRequest) { r.Host = "small" }, false},
		"no host with the memory":   {placement.CodeHostMemory, func(b builder, _ *placement.CloneRequest) { b.FreeMemory["large"] = 255 * mib }, false},
		"a host in maintenance": {placement.CodeHostDisabled, func(b builder, r *placement.CloneRequest) {
			host := b.Hosts["large"]
			host.Enabled, r.Host = false, "large"
			b.Hosts["large"] = host
		}, false},
		"a host that does not see an SR": {placement.CodeSRUnseen, func(b builder, r *placement.CloneRequest) {
			delete(b.PBDs, "large-thick")
			r.Host = "large"
		}, false},
		"a licence without starts": {placement.CodeLicence, func(b builder, _ *placement.CloneRequest) {
			b.Record.Restrictions = map[string]string{"restrict_vm_start": "true"}
		}, false},
		"a thick SR without room": {placement.CodeSpace, func(b builder, _ *placement.CloneRequest) {
			b.sr("thick", "lvm", 1000*mib, 950*mib)
		}, true},
		"a thin SR below its floor": {placement.CodeSpace, func(b builder, _ *placement.CloneRequest) {
			b.sr("thin", "nfs", 1000*mib, 950*mib)
		}, true},
		"an SR that no host sees": {placement.CodeSRUnplugged, func(b builder, _ *placement.CloneRequest) {
			delete(b.PBDs, "large-thick")
			delete(b.PBDs, "small-thick")
		}, true},
		"a chain of the greatest length": {placement.CodeChainLong, func(b builder, _ *placement.CloneRequest) {
			below := ""
			for i := range inventory.MaxChain - 1 {
				uuid := string(rune('A' + i))
				b.VDIs[xapi.Ref(uuid)] = xapi.VDI{UUID: uuid, SR: "thin", SMConfig: map[string]string{"vhd-parent": below}}
				below = uuid
			}
			vdi := b.VDIs["point-0"]
			vdi.SMConfig = map[string]string{"vhd-parent": below}
			b.VDIs["point-0"] = vdi
		}, true},
	} {
		b := world()
		request := placement.CloneRequest{Pool: b.Pool, Of: "point", Start: true}
		c.change(b, &request)
		var infeasible *placement.Infeasible
		_, _, err := placement.PlaceClone(request, now)
		if !errors.As(err, &infeasible) || infeasible.Findings[0].Code != c.code || infeasible.Findings[0].Mend == "" {
			t.Errorf("%s: %v", name, err)
		}
		request.Start = false
		if _, _, err := placement.PlaceClone(request, now); (err != nil) != c.asleep {
			t.Errorf("%s, without a start: %v", name, err)
		}
	}
}
