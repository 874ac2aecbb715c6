package delegate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// Errors on which callers decide, to be tested with errors.Is. A lack of addresses is a state.ErrNoAddress.
var (
	// ErrNotReady: the delegate was started and did not come up, or not in time.
	ErrNotReady = errors.New("the delegate did not come up")
	// ErrIdentity: what answered is not the delegate that was started, or acts on another configuration.
	ErrIdentity = errors.New("the delegate's identity does not fit")
	// ErrImage: the deployed image does not fit this orchestrator, or cannot be a delegate's.
	ErrImage = errors.New("the delegate's image cannot be used")
	// ErrStranger: an object is in the way that is not ours; it was left alone.
	ErrStranger = errors.New("not an object of ours")
	// ErrDiskSize: a plugged disk is smaller than expected.
	ErrDiskSize = errors.New("the disk is too small")
)

// Pool is one pool as a run sees it.
type Pool struct {
	Name      string // as the administrator calls it
	API       xapi.API
	Inventory *inventory.Pool
	Store     *state.Store
}

const (
	// retireTimeout bounds one Retire: a shutdown takes seconds, a disk may be busy for some 45 (xapi-facts §14.4).
	retireTimeout = 3 * time.Minute
	// powerOffTimeout bounds the request for a power-off, and haltTimeout the wait for it, before the VM is shut down hard.
	powerOffTimeout = 3 * time.Second
	haltTimeout     = 10 * time.Second
)

// Delegate is an appliance VM whose identity has been proved. Its methods may be called concurrently.
type Delegate struct {
	UUID        string               // of the VM
	Ref         xapi.Ref             // of the VM
	Side        string               // as in its Spec
	Address     string               // "ip:port" for control and data alike
	Fingerprint netproto.Fingerprint // what its peers pin
	Version     string               // of its software

	object  state.Object
	pool    *Pool
	saga    *saga.Saga
	log     *slog.Logger
	control *control.Client
	timeout time.Duration // for a plugged disk to appear
	pause   time.Duration // between attempts to plug a disk that is in use

	mu    sync.Mutex // of disks, and held while a position is chosen
	disks map[int]xapi.Ref

	retiring sync.Mutex // of retired
	retired  bool
}

// Name is the name of the VM in its pool. It carries the run's id.
func (d *Delegate) Name() string { return d.object.Name }

// Pool is where the delegate runs.
func (d *Delegate) Pool() *Pool { return d.pool }

// Control is the client of the delegate's control API. It works until Retire.
func (d *Delegate) Control() *control.Client { return d.control }

// ControlBytes are the bytes exchanged with the delegate so far, both ways, TLS included.
func (d *Delegate) ControlBytes() int64 {
	stats := d.control.Stats()
	return stats.Sent + stats.Received
}

// Retire powers the delegate off and removes its VM and boot disk, and never another disk. It does so even when ctx has
// ended, within three minutes; once it has succeeded it does nothing. After an error the delegate stays recorded, so that the
// end of the run or a later recovery tries again. The leased address is free when the run's saga is unwound.
func (d *Delegate) Retire(ctx context.Context) error {
	d.retiring.Lock()
	defer d.retiring.Unlock()
	if d.retired {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), retireTimeout)
	defer cancel()
	if d.control != nil {
		if err := d.powerOff(ctx); err != nil {
			d.log.Info("the delegate does not power itself off and is shut down hard", "delegate", d.Name(), "cause", err)
		}
		d.control.Close()
	}
	if err := d.saga.Undo(ctx, d.object); err != nil {
		return fmt.Errorf("retiring a delegate in pool %s: %w; it stays recorded, recovery tries again", d.pool.Name, err)
	}
	d.retired = true
	d.log.Info("delegate retired", "delegate", d.Name(), "pool", d.pool.Name)
	return nil
}

// powerOff lets the delegate end by itself: its tasks are stopped and its disks closed.
func (d *Delegate) powerOff(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, powerOffTimeout)
	defer cancel()
	if err := d.control.PowerOff(asking, "the run needs it no more"); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, haltTimeout)
	defer cancel()
	return watch(waiting, d.pool.API, d.Ref, func(vm xapi.VM) (bool, error) { return halted(vm), nil })
}
