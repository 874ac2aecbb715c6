package replication

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// mappedVIF is a network interface of the source with its network in the target pool; null when there is none.
type mappedVIF struct {
	vif     xapi.VIF
	from    string // name of the source network
	network xapi.Ref
}

// mapVIFs gives each interface of the source its network: the rule's, else the same one within a pool, else the one of the
// same name.
func (s *subject) mapVIFs() []mappedVIF {
	var mapped []mappedVIF
	for _, ref := range s.vm.VIFs {
		vif, ok := s.source.Inventory.VIFs[ref]
		if !ok {
			continue
		}
		one := mappedVIF{vif: vif, from: s.source.Inventory.Networks[vif.Network].NameLabel}
		wanted, ruled := s.request.NetworkMap[one.from]
		switch {
		case ruled:
			one.network = findNetwork(s.target, wanted)
		case s.source.Inventory.UUID == s.target.Inventory.UUID:
			one.network = vif.Network
		default:
			one.network = findNetwork(s.target, one.from)
		}
		mapped = append(mapped, one)
	}
	slices.SortFunc(mapped, func(a, b mappedVIF) int { return numberOf(a.vif.Device) - numberOf(b.vif.Device) })
	return mapped
}

// findNetwork finds a network by uuid or by a name that only one has.
func findNetwork(pool *delegate.Pool, wanted string) xapi.Ref {
	var named []xapi.Ref
	for ref, network := range pool.Inventory.Networks {
		if network.UUID == wanted {
			return ref
		}
		if network.NameLabel == wanted {
			named = append(named, ref)
		}
	}
	if len(named) == 1 {
		return named[0]
	}
	return xapi.NullRef
}

// wantedMAC is the address that an interface is made with; empty: the pool draws one.
func (s *subject) wantedMAC(v mappedVIF) string {
	if s.request.NewMACs {
		return ""
	}
	return v.vif.MAC
}

func (r *run) makeVIF(ctx context.Context, v mappedVIF, mac string) error {
	_, err := xapi.MakeVIF(ctx, r.target.API, map[string]any{
		"device": v.vif.Device, "network": v.network, "VM": r.standbyRef, "MAC": mac, "MTU": v.vif.MTU,
		"other_config": filled(v.vif.OtherConfig), "qos_algorithm_type": v.vif.QoSAlgorithmType,
		"qos_algorithm_params": filled(v.vif.QoSAlgorithmParams),
	})
	if err != nil {
		return fmt.Errorf("interface %s of the replica: %w", v.vif.Device, err)
	}
	return nil
}

// keepVIFs has the replica's interfaces follow the source's by the network map. One that fits no more is made anew, since an
// interface cannot change its address; what has to go goes first.
func (r *run) keepVIFs(ctx context.Context, s settable) error {
	wanted := map[string]mappedVIF{}
	for _, v := range r.mapVIFs() {
		wanted[v.vif.Device] = v
	}
	addresses := map[string]string{} // of those that are to be made
	for device, v := range wanted {
		if !v.network.IsNull() {
			addresses[device] = r.wantedMAC(v)
		}
	}
	for _, ref := range s.now.VIFs {
		vif, err := xapi.GetRecord[xapi.VIF](ctx, s.api, "VIF", ref)
		if err != nil {
			return err
		}
		v, known := wanted[vif.Device]
		if known && v.network.IsNull() {
			continue // an administrator may have put it there; the plan's notes tell
		}
		what := "interface " + vif.Device
		if !known {
			if err := r.followed(xapi.Destroy(ctx, s.api, "VIF", ref), what, "is gone, the source has none"); err != nil {
				return err
			}
			continue
		}
		why := r.misfit(v, vif)
		if why == "" {
			delete(addresses, vif.Device)
			continue
		}
		if r.request.NewMACs && !strings.EqualFold(vif.MAC, v.vif.MAC) {
			addresses[vif.Device] = vif.MAC // drawn once
		}
		if err := r.followed(xapi.Destroy(ctx, s.api, "VIF", ref), what, "is made anew: %s", why); err != nil {
			return err
		}
	}
	for _, device := range slices.Sorted(maps.Keys(addresses)) {
		v := wanted[device]
		if err := r.followed(r.makeVIF(ctx, v, addresses[device]), "interface "+device, "is made, for the source's on network %q", v.from); err != nil {
			return err
		}
	}
	return nil
}

// misfit tells why an interface of the replica is not what its source's leads to; empty: it is.
func (r *run) misfit(v mappedVIF, have xapi.VIF) string {
	same := strings.EqualFold(have.MAC, v.vif.MAC)
	switch {
	case have.Network != v.network:
		return fmt.Sprintf("the source's is on network %q, and the replica's was on %q", v.from, r.target.Inventory.Networks[have.Network].NameLabel)
	case have.MTU != v.vif.MTU:
		return fmt.Sprintf("its MTU was %d, the source's is %d", have.MTU, v.vif.MTU)
	case r.request.NewMACs && same:
		return "it had the source's address and is to have one of its own"
	case !r.request.NewMACs && !same:
		return fmt.Sprintf("its address was %s, the source's is %s", have.MAC, v.vif.MAC)
	}
	return ""
}

// drives are the positions of the source's CD drives.
func (s *subject) drives() map[string]xapi.VBD {
	drives := map[string]xapi.VBD{}
	for _, ref := range s.vm.VBDs {
		if vbd, ok := s.source.Inventory.VBDs[ref]; ok && vbd.Type == xapi.TypeCD {
			drives[vbd.UserDevice] = vbd
		}
	}
	return drives
}

// makeRoom takes CD drives of the replica away that stand where the source has a disk.
func (r *run) makeRoom(ctx context.Context) error {
	if r.standby == nil {
		return nil
	}
	for _, ref := range r.standby.vm.VBDs {
		vbd, ok := r.target.Inventory.VBDs[ref]
		if !ok || vbd.Type != xapi.TypeCD || !slices.ContainsFunc(r.disks, func(d *diskRun) bool { return d.plan.Disk == vbd.UserDevice }) {
			continue
		}
		if err := r.followed(xapi.Destroy(ctx, r.target.API, classVBD, ref), "CD drive "+vbd.UserDevice, "is gone, the source has a disk there"); err != nil {
			return err
		}
	}
	return nil
}

// keepDrives gives the replica the source's CD drives, with nothing in them.
func (r *run) keepDrives(ctx context.Context, s settable) error {
	missing := r.drives()
	for _, ref := range s.now.VBDs {
		vbd, err := xapi.GetRecord[xapi.VBD](ctx, s.api, classVBD, ref)
		if err != nil {
			return err
		}
		if vbd.Type != xapi.TypeCD {
			continue
		}
		what := "CD drive " + vbd.UserDevice
		if _, wanted := missing[vbd.UserDevice]; !wanted {
			err = r.followed(xapi.Destroy(ctx, s.api, classVBD, ref), what, "is gone, the source has none")
		} else if !vbd.Empty {
			empty := xapi.Record(s.api, classVBD, ref, func(v xapi.VBD) bool { return v.Empty })
			err = r.followed(xapi.Ensure(ctx, s.api, "VBD.eject", empty, ref), what, "is emptied: a replica's are empty")
		}
		if err != nil {
			return err
		}
		delete(missing, vbd.UserDevice)
	}
	for _, position := range sortedDisks(missing) {
		_, err := xapi.MakeVBD(ctx, s.api, map[string]any{
			"VM": s.ref, "VDI": xapi.NullRef, "userdevice": position, "bootable": missing[position].Bootable,
			"mode": xapi.ModeRO, "type": xapi.TypeCD, "empty": true, "unpluggable": true, "other_config": map[string]string{},
			"qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
		})
		if err := r.followed(err, "CD drive "+position, "is made, empty"); err != nil {
			return err
		}
	}
	return nil
}
