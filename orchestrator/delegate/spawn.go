package delegate

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	defaultTimeout = 2 * time.Minute
	// defaultRetryPause and plugAttempts: a disk can stay in use for some seconds after its last unplug (xapi-facts §14.4).
	defaultRetryPause = 5 * time.Second
	plugAttempts      = 10
)

// Spawner makes the delegates of one run. It may be used concurrently.
type Spawner struct {
	Installation string // uuid, stands in the markers
	Run          string // id
	Identity     *netproto.Identity
	Key          manifest.Key // the domain's, for the delegates' memory alone
	Saga         *saga.Saga   // of the run; among its undoers must be those of Undoers
	Log          *slog.Logger // default: none
	// Dial connects to delegates; nil: by net.Dialer. See control.ClientOptions.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Timeout bounds the boot, from the end of VM.start to the first answer over TLS, and the appearance of a plugged disk.
	// Default two minutes.
	Timeout time.Duration
	// RetryPause is the time between two of the ten attempts to plug a disk that is in use; default five seconds.
	RetryPause time.Duration
}

// Spec says which delegate is wanted.
type Spec struct {
	Pool     *Pool
	Host     xapi.Ref
	Template xapi.Ref
	Side     string // for the caller and the log
}

// Spawn makes a delegate and returns it when its identity is proved and it has the digest key; only now may disks be plugged.
// After an error nothing is left behind but what the error names. When ctx ends it stops waiting at once and then removes what
// was made, which takes as long as the pool needs. Errors: ErrNotReady, ErrIdentity, ErrImage, state.ErrNoAddress, those of the
// XenAPI and the context's cause.
func (s *Spawner) Spawn(ctx context.Context, spec Spec) (*Delegate, error) {
	d, err := s.spawn(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("spawning a delegate in pool %s: %w", spec.Pool.Name, withCause(ctx, err))
	}
	return d, nil
}

func (s *Spawner) spawn(ctx context.Context, spec Spec) (*Delegate, error) {
	if s.Key.IsZero() {
		return nil, errors.New("no digest key was given")
	}
	if err := check(spec); err != nil {
		return nil, err
	}
	network, err := s.lease(ctx, spec.Pool)
	if err != nil {
		return nil, err
	}
	d := &Delegate{
		Side: spec.Side, pool: spec.Pool, saga: s.Saga, log: cmp.Or(s.Log, slog.New(slog.DiscardHandler)),
		timeout: cmp.Or(s.Timeout, defaultTimeout), pause: cmp.Or(s.RetryPause, defaultRetryPause), disks: map[int]xapi.Ref{},
	}
	if err := s.clone(ctx, d, spec.Template); err != nil {
		return nil, err
	}
	started := time.Now()
	if err := s.bringUp(ctx, d, spec, network); err != nil {
		return nil, errors.Join(err, d.Retire(ctx))
	}
	d.log.Info("delegate ready", "delegate", d.Name(), "pool", spec.Pool.Name, "host", hostName(spec.Pool, spec.Host),
		"side", spec.Side, "address", d.Address, "version", d.Version, "took", time.Since(started))
	return d, nil
}

// bringUp makes a fresh clone a running delegate whose identity is proved.
func (s *Spawner) bringUp(ctx context.Context, d *Delegate, spec Spec, network network) error {
	if err := s.mark(ctx, d, spec.Template); err != nil {
		return err
	}
	boot, err := s.configure(ctx, d, spec.Host, network)
	if err != nil {
		return err
	}
	if err := d.start(ctx, spec.Host); err != nil {
		return err
	}
	return s.meet(ctx, d, boot)
}

// check refuses what cannot become a delegate before anything is touched.
func check(spec Spec) error {
	pool := spec.Pool.Inventory
	template, ok := pool.VMs[spec.Template]
	if !ok || !template.IsATemplate || template.IsASnapshot {
		return fmt.Errorf("%w: %s is no template of the pool; deploy the image", ErrImage, spec.Template)
	}
	if _, ok := pool.Hosts[spec.Host]; !ok {
		return fmt.Errorf("the pool has no host %s; read its inventory again", spec.Host)
	}
	disks, err := pool.DisksOf(spec.Template)
	if err != nil {
		return fmt.Errorf("%w: template %s: %w", ErrImage, template.NameLabel, err)
	}
	if len(disks) != 1 || disks[0].Number != bootDevice {
		return fmt.Errorf("%w: template %s has %d disks, it must have one at position %d; deploy the image anew",
			ErrImage, template.NameLabel, len(disks), bootDevice)
	}
	if len(template.VIFs) == 0 {
		return fmt.Errorf("%w: template %s has no network interface; deploy the image to a network that the orchestrator reaches",
			ErrImage, template.NameLabel)
	}
	return nil
}

// network is what a delegate is told of its network.
type network struct {
	address netip.Prefix
	dhcp    string // in place of the address, when a DHCP server gives one; else empty
	gateway string // empty: none
	mtu     int    // 0: the network's own
	uuid    string // of the pool's network; empty: the template's
}

// addressInput is what control.InputAddress says.
func (n network) addressInput() string {
	if n.dhcp != "" {
		return n.dhcp
	}
	return n.address.String()
}

// lease takes an address of the pool's range for the run, where the pool has one.
func (s *Spawner) lease(ctx context.Context, pool *Pool) (network, error) {
	record, err := pool.Store.Pool(ctx, pool.Inventory.UUID)
	if err != nil {
		return network{}, err
	}
	if record.DelegateAddresses == "" {
		return network{}, fmt.Errorf("%w: no range of addresses was given for the pool's delegates; give it one", state.ErrNoAddress)
	}
	ranges, err := placement.ParseAddresses(record.DelegateAddresses)
	if err != nil {
		return network{}, fmt.Errorf("the range for the pool's delegates: %w", err)
	}
	if ranges.DHCP() != "" {
		return network{dhcp: ranges.DHCP(), mtu: record.DelegateMTU, uuid: record.DelegateNetwork}, nil
	}
	address, err := pool.Store.Lease(ctx, pool.Inventory.UUID, s.Run, ranges.All())
	return network{address: address, gateway: record.DelegateGateway, mtu: record.DelegateMTU, uuid: record.DelegateNetwork}, err
}

// clone makes the VM under a name that the record already has. When it fails, whatever the pool has made or is still making is
// removed here, because the saga hands out no record of a failed creation.
func (s *Spawner) clone(ctx context.Context, d *Delegate, template xapi.Ref) error {
	pool := d.pool
	pending := state.Object{
		Run: s.Run, Pool: pool.Inventory.UUID, Class: "VM", Kind: string(replica.KindDelegate), Origin: pool.Inventory.VMs[template].UUID,
	}
	object, err := s.Saga.Create(ctx, saga.Intent{Pool: pending.Pool, Class: pending.Class, Kind: pending.Kind, Origin: pending.Origin},
		func(ctx context.Context, name string) (string, error) {
			pending.Name = name
			ctx, cancel := lingering(ctx)
			defer cancel()
			var err error
			if d.Ref, err = xapi.CopyVM(ctx, pool.API, "VM.clone", template, name); err != nil {
				return "", err
			}
			err = pool.API.Call(ctx, "VM.get_uuid", &d.UUID, d.Ref)
			return d.UUID, err
		})
	if err == nil {
		d.object = object
		return nil
	}
	if pending.Name == "" {
		return err // nothing was asked of the pool
	}
	pending.UUID = d.UUID
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), retireTimeout)
	defer cancel()
	return errors.Join(err, remover{pool: pool, installation: s.Installation}.remove(ctx, pending))
}

// linger is how long a creating call goes on after its context has ended.
const linger = 500 * time.Millisecond

// lingering is a context that ends a moment after ctx. A request that is cancelled on its way may be carried out when nobody
// looks any more; a moment later its task exists, and shows.
func lingering(ctx context.Context) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if pause(late, linger) == nil {
			cancel(context.Cause(ctx))
		}
	})
	return late, func() {
		stop()
		cancel(context.Canceled)
	}
}

// mark makes the clone ours, its disk first: a VM that bears its own marker has a disk that bears one, and only such a disk is
// destroyed with it.
func (s *Spawner) mark(ctx context.Context, d *Delegate, template xapi.Ref) error {
	api := d.pool.API
	vm, err := xapi.GetRecord[xapi.VM](ctx, api, "VM", d.Ref)
	if err != nil {
		return err
	}
	disk, err := bootDisk(ctx, api, vm)
	if err != nil {
		return err
	}
	if disk == nil {
		return fmt.Errorf("%w: the clone %s has no disk at position %d; deploy the image anew", ErrImage, d.Name(), bootDevice)
	}
	marker := replica.Marker{
		Installation: s.Installation, Run: s.Run, Kind: replica.KindDelegateDisk, Self: disk.vdi.UUID, Disk: fmt.Sprint(bootDevice),
	}
	if err := replica.Apply(ctx, api, "VDI", disk.ref, marker); err != nil {
		return err
	}
	marker = replica.Marker{
		Installation: s.Installation, Run: s.Run, Kind: replica.KindDelegate, Self: d.UUID, Source: d.pool.Inventory.VMs[template].UUID,
	}
	return replica.Apply(ctx, api, "VM", d.Ref, marker)
}

// newNonce draws what tells this start from every other.
func newNonce() (string, error) {
	nonce := make([]byte, 16)
	if _, err := rand.Read(nonce); err != nil {
		return "", fmt.Errorf("drawing a nonce: %w", err)
	}
	return hex.EncodeToString(nonce), nil
}

func hostName(pool *Pool, host xapi.Ref) string {
	return cmp.Or(pool.Inventory.Hosts[host].NameLabel, string(host))
}
