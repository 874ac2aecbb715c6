package replication

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// standby is a replica as it is in its pool.
type standby struct {
	vm    inventory.VM
	disks map[string]inventory.Disk // by number; VBDRef is empty for a recorded disk that the VM does not hold
}

// findStandby looks up the replica that a record names; nil when its VM is gone, or its pool is not known.
func findStandby(pool *inventory.Pool, record state.Replica) *standby {
	if pool == nil {
		return nil
	}
	for ref, vm := range pool.VMs {
		if record.TargetVM == "" || vm.UUID != record.TargetVM {
			continue
		}
		found := &standby{vm: inventory.VM{Ref: ref, VM: vm}, disks: map[string]inventory.Disk{}}
		found.addRecorded(pool, record)
		found.addHeld(pool)
		return found
	}
	return nil
}

// addRecorded adds the disks that the record names, whether the VM holds them or not.
func (s *standby) addRecorded(pool *inventory.Pool, record state.Replica) {
	for _, d := range record.Disks {
		for ref, vdi := range pool.VDIs {
			if vdi.UUID == d.TargetVDI && !vdi.Missing {
				s.disks[d.Disk] = inventory.Disk{Number: numberOf(d.Disk), VDIRef: ref, VDI: vdi}
			}
		}
	}
}

// addHeld puts what the VM holds in place of what the record names: that is what would be written and booted.
func (s *standby) addHeld(pool *inventory.Pool) {
	for _, ref := range s.vm.VBDs {
		vbd, ok := pool.VBDs[ref]
		if !ok || vbd.Type != xapi.TypeDisk || vbd.Empty {
			continue
		}
		if vdi, ok := pool.VDIs[vbd.VDI]; ok {
			s.disks[vbd.UserDevice] = inventory.Disk{Number: numberOf(vbd.UserDevice), VBDRef: ref, VBD: vbd, VDIRef: vbd.VDI, VDI: vdi}
		}
	}
}

// gatherer gathers what a pool and the state database say of a replica.
type gatherer struct {
	pool         *inventory.Pool
	installation string // uuid
	record       state.Replica
	standby      *standby
	delegate     xapi.Ref // the one that holds the disks; empty: none does yet, and any of ours may
}

// evidence is all of it on some disks. Option, Direction, KeyID and what is about manifests are the caller's.
func (g gatherer) evidence(disks map[string]inventory.Disk) replica.Evidence {
	e := replica.Evidence{VM: g.vm()}
	for _, name := range sortedDisks(disks) {
		e.Disks = append(e.Disks, g.disk(name, disks[name]))
	}
	for _, d := range g.record.Disks {
		if d.ForeignWrites != "" { // an earlier run has found it
			e.Leaves = append(e.Leaves, replica.LeafEvidence{Disk: d.Disk, Foreign: d.ForeignWrites})
		}
	}
	return e
}

func (g gatherer) vm() replica.VMEvidence {
	vm := g.standby.vm
	e := replica.VMEvidence{
		Source: g.record.SourceVM, PowerState: vm.PowerState,
		StartTime: g.pool.VMMetrics[vm.Metrics].StartTime.Time, LastCommit: g.record.LastCommit,
		AcceptedStart: g.record.AcceptedStart,
	}
	e.Marker, e.Ownership, _ = replica.Read(g.installation, vm.UUID, vm.OtherConfig) // Malformed says enough
	for _, snapshot := range g.pool.VMs {
		if snapshot.IsASnapshot && snapshot.SnapshotOf == vm.Ref && !g.is(snapshot.UUID, snapshot.OtherConfig, replica.KindRestorePoint, replica.KindDiverged) {
			e.ForeignSnapshots = append(e.ForeignSnapshots, snapshot.UUID)
		}
	}
	slices.Sort(e.ForeignSnapshots)
	return e
}

func (g gatherer) disk(name string, disk inventory.Disk) replica.DiskEvidence {
	e := replica.DiskEvidence{Disk: name, VDI: disk.VDI.UUID, Size: disk.VDI.VirtualSize}
	for _, d := range g.record.Disks {
		if d.Disk == name {
			e.RecordedState, e.RecordedVDI, e.RecordedSize = d.State, d.TargetVDI, d.LogicalSize
		}
	}
	e.Marker, e.Ownership, _ = replica.Read(g.installation, disk.VDI.UUID, disk.VDI.OtherConfig)
	e.ForeignVBDs = g.foreignVBDs(disk.VDIRef)
	for _, vdi := range g.pool.VDIs {
		if vdi.IsASnapshot && vdi.SnapshotOf == disk.VDIRef && !g.is(vdi.UUID, vdi.OtherConfig, replica.KindRestorePointDisk, replica.KindDivergedDisk) {
			e.ForeignSnapshots = append(e.ForeignSnapshots, vdi.UUID)
		}
	}
	slices.Sort(e.ForeignSnapshots)
	return e
}

func (g gatherer) foreignVBDs(vdi xapi.Ref) []replica.ForeignVBD {
	var foreign []replica.ForeignVBD
	for _, vbd := range g.pool.VBDs {
		if vbd.VDI != vdi || vbd.VM == g.standby.vm.Ref || vbd.VM == g.delegate {
			continue
		}
		// A delegate that a dead run left behind is ours. Before this run's has the disks, recovery may yet remove it.
		holder := g.pool.VMs[vbd.VM]
		if g.delegate != "" || !g.is(holder.UUID, holder.OtherConfig, replica.KindDelegate) {
			foreign = append(foreign, replica.ForeignVBD{VM: holder.UUID, Writable: vbd.Mode == xapi.ModeRW})
		}
	}
	slices.SortFunc(foreign, func(a, b replica.ForeignVBD) int { return cmp.Compare(a.VM, b.VM) })
	return foreign
}

func (g gatherer) is(uuid string, otherConfig map[string]string, kinds ...replica.Kind) bool {
	marker, owner, _ := replica.Read(g.installation, uuid, otherConfig)
	return owner == replica.Ours && slices.Contains(kinds, marker.Kind)
}

// evidenceOf is the evidence for what the request wants to do with the disks of its replica.
func (s *subject) evidenceOf(ctx context.Context, store *state.Store, g gatherer, disks map[string]inventory.Disk) (replica.Evidence, error) {
	headers, err := s.manifests(ctx, store)
	if err != nil {
		return replica.Evidence{}, err
	}
	e := g.evidence(disks)
	e.Option, e.Direction, e.KeyID = s.request.trust(), s.dialling(), store.Installation().DigestKey.ID()
	e.Distrusted = s.record.Trust == state.TrustNever
	if e.Unfinished, err = s.unfinished(ctx, store); err != nil {
		return replica.Evidence{}, err
	}
	for i := range e.Disks {
		header := headers[e.Disks[i].Disk]
		e.Disks[i].ManifestKey, e.Disks[i].ManifestSize = header.KeyID, header.Geometry.Size
	}
	return e, nil
}

// manifests gives the header of each disk's cached manifest. A manifest that cannot be read counts as absent, and the plan
// says so.
func (s *subject) manifests(ctx context.Context, store *state.Store) (map[string]manifest.Header, error) {
	headers := map[string]manifest.Header{}
	for _, d := range s.record.Disks {
		view, err := store.CurrentView(ctx, s.record.ID, d.Disk)
		if err == nil {
			headers[d.Disk] = view.Header()
			view.Close()
		} else if unusable(err) {
			s.note("manifest-lost", "the cached manifest of disk %s counts as absent: %v", d.Disk, err)
			err = nil
		} else if errors.Is(err, state.ErrNotFound) {
			err = nil
		}
		if err != nil {
			return nil, err
		}
	}
	return headers, nil
}

// unusable reports whether a manifest or a journal is there and cannot be used.
func unusable(err error) bool {
	return errors.Is(err, manifest.ErrCorrupt) || errors.Is(err, manifest.ErrKey) || errors.Is(err, manifest.ErrVersion)
}

// sortedDisks orders the names of disks by number.
func sortedDisks[T any](disks map[string]T) []string {
	return slices.SortedFunc(maps.Keys(disks), func(a, b string) int { return cmp.Compare(numberOf(a), numberOf(b)) })
}

// numberOf is the number of a disk's name; names come from VBDs and the state database, which hold decimal numbers.
func numberOf(disk string) int {
	number, err := strconv.Atoi(disk)
	if err != nil {
		return -1 // fits no disk of a source VM
	}
	return number
}
