package replication

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

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

// evidenceOf gathers what the pool and the state database say of a replica's disks. Option, Direction, KeyID and the
// manifests' keys are the caller's.
func evidenceOf(pool *inventory.Pool, installation string, record state.Replica, s *standby, disks map[string]inventory.Disk) replica.Evidence {
	g := gatherer{pool: pool, installation: installation, standby: s}
	e := replica.Evidence{VM: g.vm(record.LastCommit)}
	for _, name := range sortedDisks(disks) {
		e.Disks = append(e.Disks, g.disk(name, disks[name], record))
	}
	return e
}

type gatherer struct {
	pool         *inventory.Pool
	installation string
	standby      *standby
}

func (g gatherer) vm(lastCommit time.Time) replica.VMEvidence {
	vm := g.standby.vm
	e := replica.VMEvidence{
		PowerState: vm.PowerState, StartTime: g.pool.VMMetrics[vm.Metrics].StartTime.Time, LastCommit: lastCommit,
	}
	e.Marker, e.Ownership, _ = replica.Read(g.installation, vm.UUID, vm.OtherConfig) // Malformed says enough
	for _, snapshot := range g.pool.VMs {
		if snapshot.IsASnapshot && snapshot.SnapshotOf == vm.Ref && !g.is(snapshot.UUID, snapshot.OtherConfig, replica.KindRestorePoint) {
			e.ForeignSnapshots = append(e.ForeignSnapshots, snapshot.UUID)
		}
	}
	slices.Sort(e.ForeignSnapshots)
	return e
}

func (g gatherer) disk(name string, disk inventory.Disk, record state.Replica) replica.DiskEvidence {
	e := replica.DiskEvidence{Disk: name, VDI: disk.VDI.UUID, Size: disk.VDI.VirtualSize}
	for _, d := range record.Disks {
		if d.Disk == name {
			e.RecordedState, e.RecordedVDI, e.RecordedSize = d.State, d.TargetVDI, d.LogicalSize
		}
	}
	e.Marker, e.Ownership, _ = replica.Read(g.installation, disk.VDI.UUID, disk.VDI.OtherConfig)
	for _, vbd := range g.pool.VBDs {
		if vbd.VDI != disk.VDIRef || vbd.VM == g.standby.vm.Ref {
			continue
		}
		// A delegate that a dead run left behind is ours. Where it still holds the disk, plugging it elsewhere fails.
		holder := g.pool.VMs[vbd.VM]
		if !g.is(holder.UUID, holder.OtherConfig, replica.KindDelegate) {
			e.ForeignVBDs = append(e.ForeignVBDs, replica.ForeignVBD{VM: holder.UUID, Writable: vbd.Mode == xapi.ModeWrite})
		}
	}
	for _, vdi := range g.pool.VDIs {
		if vdi.IsASnapshot && vdi.SnapshotOf == disk.VDIRef && !g.is(vdi.UUID, vdi.OtherConfig, replica.KindRestorePointDisk) {
			e.ForeignSnapshots = append(e.ForeignSnapshots, vdi.UUID)
		}
	}
	slices.Sort(e.ForeignSnapshots)
	return e
}

func (g gatherer) is(uuid string, otherConfig map[string]string, kind replica.Kind) bool {
	marker, owner, _ := replica.Read(g.installation, uuid, otherConfig)
	return owner == replica.Ours && marker.Kind == kind
}

// manifestKeys gives the key of each disk's cached manifest. A manifest that cannot be read counts as absent, and the plan
// says so.
func (s *subject) manifestKeys(ctx context.Context, store *state.Store) (map[string]manifest.KeyID, error) {
	keys := map[string]manifest.KeyID{}
	for _, d := range s.record.Disks {
		view, err := store.CurrentView(ctx, s.record.ID, d.Disk)
		if err == nil {
			keys[d.Disk] = view.Header().KeyID
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
	return keys, nil
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
