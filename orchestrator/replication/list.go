package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// Standing says how a replica is.
type Standing string

// The standings of a replica.
const (
	StandingClean    Standing = "clean"    // as its last commit left it, as far as that can be told without reading it
	StandingDirty    Standing = "dirty"    // a run wrote to it and did not commit, or the two records of its state disagree
	StandingDiverged Standing = "diverged" // somebody used it: it is held
	StandingStranger Standing = "stranger" // what stands in its place is not known to be ours: it is held
	StandingEmpty    Standing = "empty"    // nothing was ever committed to it
	StandingGone     Standing = "gone"     // its VM does not exist
	StandingUnknown  Standing = "unknown"  // its pool was not asked
)

// Info is one replica, for lists.
type Info struct {
	ID            string              `json:"id"`
	VM            report.VM           `json:"vm"`
	Replica       report.VM           `json:"replica"`
	SR            string              `json:"sr"`      // uuid
	SRName        string              `json:"sr_name"` // empty when its pool was not asked
	Standing      Standing            `json:"standing"`
	Rung          replica.Rung        `json:"rung,omitempty"`     // of trust, that does not hold
	Cause         string              `json:"cause,omitempty"`    // of a standing that is not clean
	Failover      replica.Failover    `json:"failover,omitempty"` // empty: standby
	FailoverSince time.Time           `json:"failover_since,omitzero"`
	FailoverPoint string              `json:"failover_point,omitempty"` // uuid of the restore point that it began with, and can be undone to
	Verbs         []replica.Verb      `json:"verbs"`                    // what can be done about its failover now
	Trust         state.TrustOverride `json:"trust,omitempty"`          // an administrator's word; empty: as each run is asked
	Generation    manifest.Generation `json:"generation,omitzero"`      // of the last commit
	LastCommit    time.Time           `json:"last_commit,omitzero"`     // by the target pool's clock
	RestorePoints int                 `json:"restore_points"`
	Disks         int                 `json:"disks"`
	Size          int64               `json:"size"` // logical sizes added up, bytes
}

// Diverged reports whether somebody used the replica since its last commit.
func (i Info) Diverged() bool { return i.Standing == StandingDiverged }

// Age is the time since the last commit; 0 when there is none.
func (i Info) Age(now time.Time) time.Duration {
	if i.LastCommit.IsZero() {
		return 0
	}
	return max(now.Sub(i.LastCommit), 0)
}

// Replicas lists all replicas that the state database knows, as they are in the pools given. A pool that does not answer is in
// the error; the rest is listed nevertheless.
func Replicas(ctx context.Context, store *state.Store, pools ...*delegate.Pool) ([]Info, error) {
	records, err := store.Replicas(ctx)
	if err != nil {
		return nil, err
	}
	l := lister{store: store, pools: map[string]*delegate.Pool{}, views: map[string]*inventory.Pool{}}
	var errs []error
	for _, p := range pools {
		view, err := inventory.Load(ctx, p.API)
		if err != nil {
			errs = append(errs, fmt.Errorf("pool %s: %w", p.Name, err))
			continue
		}
		l.pools[view.UUID], l.views[view.UUID] = p, view
	}
	infos := make([]Info, 0, len(records))
	for _, record := range records {
		info, err := l.info(ctx, record)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		infos = append(infos, info)
	}
	return infos, errors.Join(errs...)
}

type lister struct {
	store *state.Store
	pools map[string]*delegate.Pool
	views map[string]*inventory.Pool
}

func (l lister) info(ctx context.Context, record state.Replica) (Info, error) {
	info := Info{
		ID: record.ID, SR: record.TargetSR, LastCommit: record.LastCommit, Disks: len(record.Disks), Trust: record.Trust,
		Failover: replica.Failover(record.Failover.State), FailoverSince: record.Failover.Note.Since, FailoverPoint: record.Failover.Note.Point,
		Verbs:   replica.Failover(record.Failover.State).Verbs(),
		VM:      l.vm(record.SourcePool, record.SourceVM),
		Replica: l.vm(record.TargetPool, record.TargetVM),
	}
	for _, d := range record.Disks {
		info.Size += d.LogicalSize
	}
	if len(record.Disks) > 0 {
		manifests, err := l.store.Manifests(ctx, record.ID, record.Disks[0].Disk)
		if err != nil {
			return Info{}, err
		}
		if n := len(manifests); n > 0 {
			info.Generation = manifests[n-1].Generation
		}
	}
	if err := l.remember(ctx, &info); err != nil {
		return Info{}, err
	}
	view, asked := l.views[record.TargetPool]
	switch s := findStandby(view, record); {
	case !asked:
		info.Standing = StandingUnknown
	case record.TargetVM == "":
		info.Standing = StandingEmpty
	case s == nil:
		info.Standing = StandingGone
	default:
		l.judge(&info, view, record, s)
		interrupted, err := unfinishedRevert(ctx, l.store, record)
		if err != nil {
			return Info{}, err
		}
		if interrupted != nil && info.Standing == StandingStranger { // what stands there is what the revert made
			info.Standing, info.Cause = StandingDirty, interrupted.Error()
		}
	}
	return info, nil
}

// remember names the VMs as the last commit's run did, where their pools were not asked: a site that is lost tells no names any more.
func (l lister) remember(ctx context.Context, info *Info) error {
	if info.VM.Name != "" && info.Replica.Name != "" || info.Generation == (manifest.Generation{}) {
		return nil
	}
	run, err := l.store.RunOf(ctx, info.ID, info.Generation)
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, vm := range []struct{ of, was *report.VM }{{&info.VM, &run.Report.VM}, {&info.Replica, &run.Report.Replica}} {
		if _, asked := l.views[vm.of.PoolUUID]; !asked && vm.of.UUID == vm.was.UUID {
			vm.of.Name, vm.of.Pool = vm.was.Name, vm.was.Pool
		}
	}
	return nil
}

// vm names a VM as its pool does, if that was asked.
func (l lister) vm(pool, uuid string) report.VM {
	vm := report.VM{UUID: uuid, PoolUUID: pool}
	view, ok := l.views[pool]
	if !ok {
		return vm
	}
	vm.Pool = l.pools[pool].Name
	if found, err := view.FindVM(uuid); err == nil {
		vm.Name = found.NameLabel
	}
	return vm
}

func (l lister) judge(info *Info, view *inventory.Pool, record state.Replica, s *standby) {
	if sr, err := view.FindSR(record.TargetSR); err == nil {
		info.SRName = sr.NameLabel
	}
	installation := l.store.Installation().UUID
	info.RestorePoints = len(restorePointsOf(installation, view.VMs, s.vm.Ref))
	d := gatherer{pool: view, installation: installation, record: record, standby: s}.judged()
	info.Rung, info.Cause = d.Rung, d.Cause
	switch {
	case d.Diverged:
		info.Standing = StandingDiverged
	case !d.Writable:
		info.Standing = StandingStranger
	case slices.Contains([]replica.Rung{replica.RungDatabase, replica.RungVMMarker, replica.RungDiskMarkers}, d.Rung):
		info.Standing = StandingDirty
		if record.LastCommit.IsZero() {
			info.Standing = StandingEmpty
		}
	default:
		info.Standing, info.Rung, info.Cause = StandingClean, "", ""
	}
}

// judged is what trust comes to without a look at the storage, as if a run were to trust the replica.
func (g gatherer) judged() replica.Decision {
	e := g.evidence(g.recorded())
	e.Option, e.Direction = report.TrustDestination, report.Push
	return replica.Trust(e)
}

// recorded are the replica's disks, as it has them, that the state database knows.
func (g gatherer) recorded() map[string]inventory.Disk {
	disks := map[string]inventory.Disk{}
	for _, d := range g.record.Disks {
		if disk, ok := g.standby.disks[d.Disk]; ok {
			disks[d.Disk] = disk
		}
	}
	return disks
}
