package replication

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// SourceRunsError says that the source VM runs while its replica was to be started.
type SourceRunsError struct {
	VM, Name string
	Pool     string
	MACs     []string // that both would have
}

func (e *SourceRunsError) Error() string {
	same := "they would be the same machine twice"
	if len(e.MACs) > 0 {
		same = fmt.Sprintf("both would have the same addresses (%s), and each would write to its own disks", strings.Join(e.MACs, ", "))
	}
	return fmt.Sprintf("the source VM %s (%s) runs in pool %s: %s; shut it down, have it done for you (--planned), or start the replica nevertheless (--force)",
		e.Name, e.VM, e.Pool, same)
}

// sourceTimeout bounds what is asked of a source pool that may be half dead.
const sourceTimeout = time.Minute

// sourceVM is the source VM of a failover; nil: nothing is to be had of it.
type sourceVM struct {
	pool *delegate.Pool
	ref  xapi.Ref
	vm   xapi.VM
}

func (s *sourceVM) runs() bool {
	return s != nil && (s.vm.PowerState == xapi.Running || s.vm.PowerState == xapi.Paused)
}

// lookAtSource reads the source VM. Where it cannot be had, an event says so, and what that means.
func (s *sides) lookAtSource(ctx context.Context, c *chore) (*sourceVM, error) {
	if s.source == nil {
		c.event("source-unreachable", "pool %s of the source VM %s was not asked: see to it that the VM does not run, and is not started when the pool is back",
			c.record.SourcePool, c.record.SourceVM)
		return nil, nil
	}
	limited, cancel := context.WithTimeout(ctx, sourceTimeout)
	defer cancel()
	found, err := findSource(limited, s.source, c.record.SourcePool, c.record.SourceVM)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		c.event("source-unreachable", "pool %s of the source VM %s does not answer: see to it that the VM does not run, and is not started when the pool is back: %v",
			s.source.Name, c.record.SourceVM, err)
		return nil, nil
	case found == nil:
		c.event("source-gone", "the source VM %s is gone from pool %s", c.record.SourceVM, s.source.Name)
	}
	return found, nil
}

// findSource reads a VM of a pool, whose uuid is checked; nil when the VM is gone.
func findSource(ctx context.Context, pool *delegate.Pool, poolUUID, uuid string) (*sourceVM, error) {
	pools, err := xapi.AllRecords[xapi.Pool](ctx, pool.API, "pool")
	if err != nil {
		return nil, err
	}
	for _, p := range pools { // there is one
		if p.UUID != poolUUID {
			return nil, fmt.Errorf("pool %s is %s, and the VM is in %s", pool.Name, p.UUID, poolUUID)
		}
	}
	ref, err := xapi.GetByUUID(ctx, pool.API, classVM, uuid)
	if xapi.IsCode(err, codeUUIDInvalid) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	vm, err := xapi.GetRecord[xapi.VM](ctx, pool.API, classVM, ref)
	if err != nil {
		return nil, xapi.UnlessGone(ctx, pool.API, classVM, ref, err)
	}
	return &sourceVM{pool: pool, ref: ref, vm: vm}, nil
}

// refuseRunning is a *SourceRunsError when the source VM runs, unless that is wanted.
func (s *sourceVM) refuseRunning(c *chore, wanted bool) error {
	if !s.runs() {
		return nil
	}
	e := &SourceRunsError{VM: s.vm.UUID, Name: s.vm.NameLabel, Pool: s.pool.Name}
	for _, ref := range c.standby.vm.VIFs {
		e.MACs = append(e.MACs, c.target.Inventory.VIFs[ref].MAC)
	}
	slices.Sort(e.MACs)
	if !wanted {
		return e
	}
	c.event("source-runs", "the replica is started beside its source, as was asked for: %v", e)
	return nil
}

// block keeps the source VM from being started beside its replica. That it cannot be done is an event.
func (s *sourceVM) block(ctx context.Context, c *chore) error {
	return s.setBlocked(ctx, c, replica.BlockSource, "see to it yourself that it is not started beside its replica")
}

// lift takes back what block did.
func (s *sourceVM) lift(ctx context.Context, c *chore) error {
	return s.setBlocked(ctx, c, replica.ReleaseSource,
		fmt.Sprintf("lift it yourself: 'xe vm-param-remove uuid=%s param-name=blocked-operations param-key=start', and the same for start_on, resume and resume_on",
			c.record.SourceVM))
}

func (s *sourceVM) setBlocked(ctx context.Context, c *chore, change func(now map[string]string, id string) map[string]string, mend string) error {
	if s == nil {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, sourceTimeout)
	defer cancel()
	var now map[string]string
	err := s.pool.API.Call(limited, "VM.get_blocked_operations", &now, s.ref)
	if err == nil {
		err = setField(limited, s.pool.API, classVM, s.ref, "blocked_operations", change(now, c.record.ID))
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		c.event("source-unreachable", "what blocks the start of the source VM %s could not be changed, %s: %v", s.vm.UUID, mend, err)
	}
	return nil
}

// tellOfSource tells what a failover leaves in the source pool when its replica is forgotten.
func (c *chore) tellOfSource() {
	if c.record.Failover.Note.Blocked {
		c.event("source-blocked", "%s", textSourceBlocked(c.record))
	}
}

func textSourceBlocked(record state.Replica) string {
	return fmt.Sprintf("the source VM %s is kept from being started, if its pool could be reached: lift its blocked operations yourself when it is to be", record.SourceVM)
}
