package replication

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

var (
	// ErrReplicaExists says that the replica is there and the request does not allow to overwrite it.
	ErrReplicaExists = errors.New("the replica exists and is not to be overwritten: allow it, or choose another SR")
	// ErrNoRestorePoint says that a replica has nothing that could be verified.
	ErrNoRestorePoint = errors.New("the replica has no restore point with a manifest: replicate it once")
	// ErrNotDiverged says that there is nothing to resync.
	ErrNotDiverged = errors.New("the replica has not diverged: its job runs as it is")
	// ErrMismatch says that what the two ends of a transfer found, or what was composed of it, does not agree.
	ErrMismatch = errors.New("the ends of the transfer do not agree")
	// errSuspect says that a task found something that cannot be so.
	errSuspect = errors.New("nothing that is noted of the disk is relied upon any more")
	// ErrChanged says that the VM or its replica changed between the look at the pools and the work.
	ErrChanged = errors.New("it changed while the run began: run it again")
)

// HeldError says that a replica may not be written.
type HeldError struct {
	Replica  string // id
	VM       string // uuid of the replica VM
	Rung     string // of trust, on which it failed
	Cause    string
	Diverged bool // somebody used it; else it is not known to be ours
}

func (e *HeldError) Error() string { return e.what() + "; " + e.mend() }

func (e *HeldError) what() string {
	if e.Diverged {
		return fmt.Sprintf("the replica (VM %s) is held, it has diverged (%s): %s", e.VM, e.Rung, e.Cause)
	}
	return fmt.Sprintf("the replica (VM %s) is held (%s): %s", e.VM, e.Rung, e.Cause)
}

func (e *HeldError) mend() string {
	if e.Diverged {
		return fmt.Sprintf("choose which copy counts: 'understudy replica resync %[1]s' keeps its present state as a snapshot and has the next "+
			"run overwrite it, 'understudy job reverse' of its job lets it count and replicates it back to its source, which must be halted, "+
			"'understudy replica detach %[1]s' leaves it as a VM of its own", e.named())
	}
	return fmt.Sprintf("remove what stands in its place, or have it forgotten with 'understudy replica detach %s' and a new one made", e.named())
}

// named is how commands name the replica.
func (e *HeldError) named() string {
	if e.Replica == "" { // the state database does not know it
		return e.VM
	}
	return e.Replica
}

// SuspendedError says that a replica is in a failover state: no run writes to it.
type SuspendedError struct {
	Replica string // id
	State   replica.Failover
}

func (e *SuspendedError) Error() string { return e.what() + "; " + e.mend() }

func (e *SuspendedError) what() string {
	return fmt.Sprintf("the replica %s is %s, and its runs are suspended", e.Replica, e.State)
}

func (e *SuspendedError) mend() string {
	verbs := make([]string, 0, 3)
	for _, v := range e.State.Verbs() {
		verbs = append(verbs, string(v))
	}
	return "what can be done about it is " + strings.Join(verbs, " or ")
}

// withCause adds why the context ended to an error that came of it.
func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// UnreachableError says that the delegate that was to dial the other one could not reach it.
type UnreachableError struct {
	Direction        report.Direction
	Dialer, Listener report.Delegate
	Cause            string // by the dialer
}

func (e *UnreachableError) Error() string { return e.what() + "; " + e.mend() }

func (e *UnreachableError) what() string {
	return fmt.Sprintf("with %s the delegate of the %s in pool %s dials that of the %s in pool %s, and %s could not reach %s: %s",
		e.Direction, e.Dialer.Side, e.Dialer.Pool, e.Listener.Side, e.Listener.Pool, hostOf(e.Dialer.Address), e.Listener.Address, e.Cause)
}

func (e *UnreachableError) mend() string {
	return fmt.Sprintf("let TCP connections through from %s to %s, or replicate with --direction %s, for which they are opened from %s to %s",
		hostOf(e.Dialer.Address), e.Listener.Address, e.Direction.Reverse(), hostOf(e.Listener.Address), e.Dialer.Address)
}

// hostOf is an address without its port.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// VTPMError says that the source VM has a virtual TPM. Its content, such as the key of an encrypted disk, cannot be read through the
// XenAPI, and a replica without it may not boot (xapi-facts §14.34).
type VTPMError struct{ VM, UUID string }

func (e *VTPMError) Error() string { return e.what() + "; " + e.mend() }

func (e *VTPMError) what() string {
	return fmt.Sprintf("VM %s (%s) has a virtual TPM, whose content cannot be read: its replica would lack it, and what is sealed by it could not be opened there",
		e.VM, e.UUID)
}

func (e *VTPMError) mend() string {
	return "keep the recovery keys of its disks elsewhere and allow the replica to be without it (--drop-vtpm), or remove the TPM from the VM"
}

// RestorePointError says that a run could take no new restore point and was to fail then.
type RestorePointError struct{ Obstacle Obstacle }

func (e *RestorePointError) Error() string {
	return fmt.Sprintf("no restore point could be made, and one is required: %s; %s", e.Obstacle.Cause, e.Obstacle.Mend)
}
