package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// Limits of Engine.Retention, and its default.
const (
	DefaultRetention = 3
	MaxRetention     = 16
)

// DefaultResumeWindow is how long a run whose line, delegates or orchestrator were lost is kept to go on from its watermark.
const DefaultResumeWindow = 6 * time.Hour

// Engine replicates VMs. It is safe for concurrent use; of one replica there is at most one run at a time.
type Engine struct {
	Store *state.Store
	// Identity is what the orchestrator shows to delegates; nil: the installation's.
	Identity *netproto.Identity
	// Log takes what is of use when a run is looked into; nil: nowhere.
	Log *slog.Logger
	// Observe takes copies of the report as a run goes on, at most two a second and one at its end. Calls do not overlap. May
	// be nil.
	Observe func(report.Run)
	// Retention is how many restore points, and with them manifests, are kept of a replica, 1 to MaxRetention; 0: DefaultRetention.
	Retention int
	// ResumeWindow replaces DefaultResumeWindow; it counts from the last time that the run came further. Negative: a run ends with
	// the first loss.
	ResumeWindow time.Duration
	// SpawnTimeout bounds the start of a delegate; 0: that of package delegate.
	SpawnTimeout time.Duration
	// Dial connects to delegates; nil: by net.Dialer. See control.ClientOptions.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// leaseTime is in place of lease.Time; 0: that. All who share a pool must have the same.
	leaseTime time.Duration
	// line gives the address by which one delegate dials another; nil: its own. A line that breaks may stand between them.
	line func(address string) (string, error)
	// reach is told of every border of a recorded step, as "before commit". Nil but in tests, which end the process there.
	reach func(border string)
}

// step does a recorded step; what it has done counts for as long as it returns no error.
func (e *Engine) step(name string, do func() error) error {
	if e.reach == nil {
		return do()
	}
	e.reach("before " + name)
	if err := do(); err != nil {
		return err
	}
	e.reach("after " + name)
	return nil
}

// Request says what is to be replicated, and how.
type Request struct {
	Source, Target *delegate.Pool // may be one and the same; their inventories are read anew
	VM             string         // name or uuid
	SR             string         // name or uuid, in the target pool
	// DiskSRs gives single disks another SR of the target pool, by name or uuid, for the number of the source disk. A disk that the
	// replica has already stays where it is.
	DiskSRs         map[string]string
	Method          report.Method // empty: enhanced
	Direction       report.Direction
	Trust           bool // skip the scan of the replica where every rung of evidence holds
	OverwriteTarget bool // when it is false and the replica exists, the run fails before anything is touched
	// NetworkMap gives the target network, by name or uuid, for a source network's name. One that is not listed goes to the
	// network of the same name. An interface whose network is not found so is left out, or left as it is, which the plan says.
	NetworkMap map[string]string
	// Consistency says whether a source that runs is paused while it is snapshotted; empty: ConsistencyDisk, it is not.
	Consistency report.Consistency
	// DropVTPM replicates a VM with a virtual TPM without it; else that is a *VTPMError.
	DropVTPM bool
	// Retention is how many restore points are kept, 1 to MaxRetention; 0: Engine.Retention. Those that are pinned count for nothing.
	Retention int
	// RequireRestorePoint has a run fail, before anything is written, that could take no new restore point: a *RestorePointError.
	// Else it brings the replica up to date, keeps the last restore point and says so.
	RequireRestorePoint bool
	// NewMACs has the target pool draw the replica's addresses; else they are the source's, so that it can take its place.
	NewMACs bool
	// NamePattern names the replica VM; "{vm}" stands for the source's name. Empty: "{vm} (replica)".
	NamePattern string
	// CBT says whether the change tracking of the source's storage is used; empty: where it is to be had.
	CBT CBT
	// ReadBack says how much is read back before the commit; empty: a sample.
	ReadBack ReadBack
	// Seeds are other replicas in the target pool, by name or uuid. What a disk that this run makes has in common with their newest restore points is
	// copied from those and not sent.
	Seeds []string
	// Limit is how fast the run may send, by the hour. It binds what goes over the line between two delegates, or by the standard method
	// what goes to the target pool.
	Limit ratelimit.Schedule
	// JobRun is the id of the job's run that the run is a part of; empty: of none.
	JobRun string
	// failover is the state of the replica in which the run is a part of a failover; every other run waits for Standby.
	failover replica.Failover
}

func (r Request) validate() error {
	switch {
	case r.Source == nil || r.Target == nil:
		return errors.New("replicating: it needs a source pool and a target pool")
	case r.VM == "" || r.SR == "":
		return errors.New("replicating: it needs a VM and a target SR")
	case !r.ReadBack.Valid():
		return fmt.Errorf("replicating: unknown read-back %q: use none, sample or full", r.ReadBack)
	case r.Method != "" && !r.Method.Valid():
		return fmt.Errorf("replicating: unknown method %q: use enhanced or standard", r.Method)
	case !r.CBT.Valid():
		return fmt.Errorf("replicating: unknown use of change tracking %q: use on or off", r.CBT)
	case !r.Direction.Valid():
		return fmt.Errorf("replicating: unknown direction %q: use push or pull", r.Direction)
	case !r.consistency().Valid():
		return fmt.Errorf("replicating: unknown consistency %q: use disk or paused", r.Consistency)
	}
	for disk := range r.DiskSRs {
		if n, err := strconv.Atoi(disk); err != nil || n < 0 || diskName(n) != disk {
			return fmt.Errorf("replicating: disk %q: name a disk by the number of its device, such as 0", disk)
		}
	}
	return nil
}

func (r Request) method() report.Method { return cmp.Or(r.Method, report.Enhanced) }

func (r Request) trust() report.Trust {
	if r.Trust {
		return report.TrustDestination
	}
	return report.TrustVerify
}

func (r Request) consistency() report.Consistency {
	return cmp.Or(r.Consistency, report.ConsistencyDisk)
}

func (e *Engine) log() *slog.Logger {
	if e.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return e.Log
}

// retention is how many restore points a run keeps.
func (e *Engine) retention(request Request) (int, error) {
	switch keep := cmp.Or(request.Retention, e.Retention, DefaultRetention); {
	case keep < 0 || keep > MaxRetention:
		return 0, fmt.Errorf("retention of %d restore points: keep 1 to %d", keep, MaxRetention)
	default:
		return keep, nil
	}
}

func (e *Engine) identity() (*netproto.Identity, error) {
	if e.Identity != nil {
		return e.Identity, nil
	}
	return netproto.ParseIdentity(e.Store.Installation().Identity().Seed())
}

func (e *Engine) resumeWindow() time.Duration {
	return max(0, min(cmp.Or(e.ResumeWindow, DefaultResumeWindow), control.MaxResume*time.Second))
}

// spawner makes the delegates of a run.
func (e *Engine) spawner(run string, s *saga.Saga, log *slog.Logger) (*delegate.Spawner, error) {
	identity, err := e.identity()
	if err != nil {
		return nil, err
	}
	installation := e.Store.Installation()
	return &delegate.Spawner{
		Installation: installation.UUID, Run: run, Identity: identity, Key: installation.DigestKey, Saga: s,
		Log: log, Dial: e.Dial, Timeout: e.SpawnTimeout,
	}, nil
}

// Plan looks at both pools and says what Replicate would do. It finds everything that stands in the way and changes nothing.
//
// Errors: *inventory.NotFoundError and *inventory.AmbiguousError for the VM, the SRs and the seeds; several of them may be joined.
// When those are known, whatever stands in the way is in one *placement.Infeasible, with the warnings that Plan.Findings has when
// nothing does; a *HeldError, *UnfinishedRevertError,
// *VTPMError or *RestorePointError and ErrReplicaExists are among its causes. Findings gives the findings of any of these errors.
func (e *Engine) Plan(ctx context.Context, request Request) (Plan, error) {
	s, err := e.resolve(ctx, request)
	if err != nil {
		return Plan{}, err
	}
	return s.plan, nil
}

// Replicate makes the replica equal to the source VM as it is now, and commits it as a new restore point. Before that it tries
// to remove what runs that have ended left behind in the two pools. A run of the same replica whose process died in the middle of
// its transfer goes on instead, within the resume window and from what is durable: it commits the VM as it was when that run began.
//
// Errors are those of Plan, in which case nothing else was touched and the report is empty; a state.ErrBusy while another run
// is at work on the replica; and whatever stops the run, among it context.Canceled and state.ErrCancelled. Then the report says how far it came, the
// replica is dirty once anything was written, and what the run had made besides is gone.
func (e *Engine) Replicate(ctx context.Context, request Request) (report.Run, error) {
	if err := request.validate(); err != nil {
		return report.Run{}, err
	}
	swept := e.sweep(ctx, request.Source, request.Target)
	s, err := e.resolve(ctx, request)
	interrupted := (*UnfinishedRevertError)(nil)
	if errors.As(err, &interrupted) {
		if _, err := e.Revert(ctx, RevertRequest{Replica: interrupted.Replica, Target: request.Target, Point: interrupted.Point}); err != nil {
			return report.Run{}, err
		}
		s, err = e.resolve(ctx, request)
	}
	if err != nil {
		return report.Run{}, err
	}
	r, err := e.begin(ctx, s)
	if busy := (*state.BusyError)(nil); errors.As(err, &busy) {
		dead, why, failure := e.takeOver(ctx, s, busy.Run)
		if failure != nil {
			return report.Run{}, failure
		}
		if dead != nil {
			return dead.carry(ctx, dead.goOn)
		}
		if r, err = e.beginAfterRecovery(ctx, s, busy.Run); err == nil {
			r.report.event("recovered", "an earlier run's process had died and it does not go on, for %s: what it left behind was removed first", why)
		}
	}
	if err != nil {
		return report.Run{}, err
	}
	if swept {
		r.report.event("recovered", "earlier runs had left objects behind: they were removed first")
	}
	return r.carry(ctx, r.execute)
}

// beginAfterRecovery begins a run where another one stands in the way whose process may have died. What recovery removes was
// part of the view that the plan stands on: all is decided anew. Runs of other replicas are left alone: they may go on.
func (e *Engine) beginAfterRecovery(ctx context.Context, s *subject, other string) (*run, error) {
	all, failure := saga.RecoverRun(ctx, e.Store, e.recovering(s.source, s.target), other)
	if failure = errors.Join(failure, failures(all)); failure != nil {
		e.log().Warn("an earlier run could not be recovered", "run", other, "cause", failure)
	}
	s, err := e.resolve(ctx, s.request)
	if err != nil {
		return nil, err
	}
	r, err := e.begin(ctx, s)
	if errors.Is(err, state.ErrBusy) && failure != nil {
		err = fmt.Errorf("%w; recovery: %v", err, failure) // typed as what it is: busy
	}
	return r, err
}
