package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/appliance/devices"
	"github.com/understudy-dr/understudy/appliance/events"
	"github.com/understudy-dr/understudy/appliance/tasks"
	"github.com/understudy-dr/understudy/netproto"
)

// eventCapacity is how many log lines are kept for the orchestrator: some hundred KiB.
const eventCapacity = 512

// runner is one run of the delegate.
type runner struct {
	options       Options
	configuration configuration // its domain changes; see mu
	address       netip.Addr    // in use
	identity      *netproto.Identity
	devices       *devices.Registry
	tasks         *tasks.Manager
	events        *events.Ring
	log           *slog.Logger
	started       time.Time
	spoken        atomic.Int64 // when the orchestrator last spoke, as time since started
	stop          context.CancelCauseFunc

	mu sync.Mutex // of configuration.domain
}

// ordered is an end of the delegate that is no failure.
type ordered struct{ cause string }

func (o ordered) Error() string { return o.cause }

// Run is the delegate's life. It returns nil after an ordered end: the pool or the orchestrator asked, no orchestrator spoke, or
// ctx ended. Otherwise the error tells what kept it from working. The cause is published through the guest either way. When Run
// returns, all its goroutines are gone and all disks are closed.
func Run(ctx context.Context, o Options) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	ring := events.NewRing(eventCapacity)
	r := &runner{
		options: o, events: ring, started: time.Now(), devices: devices.NewRegistry(o.Buffered),
		log: slog.New(slog.NewMultiHandler(o.Console, events.NewHandler(ring, slog.LevelInfo))),
	}
	err = r.run(ctx)
	if told := context.Cause(ctx); told != nil && (err == nil || errors.Is(err, told)) {
		err = ordered{"told to end"}
		if told != context.Canceled { //nolint:errorlint // a context without a cause has this very error
			err = ordered{told.Error()}
		}
	}
	r.log.Info("power off", "cause", err)
	// The machine must go and say why even when ctx has ended; a guest that hangs must not keep it.
	farewell, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if offErr := o.Guest.PowerOff(farewell, CauseText(err.Error())); offErr != nil {
		return errors.Join(err, fmt.Errorf("appliance: power off: %w", offErr))
	}
	if errors.As(err, new(ordered)) {
		return nil
	}
	return fmt.Errorf("appliance: %w", err)
}

// run works until there is a reason to end, and returns it; nil when ctx ended.
func (r *runner) run(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = r.panicked(p)
		}
	}()
	if r.configuration, err = readConfiguration(ctx, r.options.Guest); err != nil {
		return err
	}
	if r.identity, err = netproto.NewIdentity(); err != nil {
		return err
	}
	if err := r.bringUp(ctx); err != nil {
		return err
	}
	listener, err := r.listen(ctx)
	if err != nil {
		return err
	}
	return r.serve(ctx, listener)
}

// serve owns the listener and all goroutines of the delegate.
func (r *runner) serve(outer context.Context, listener net.Listener) error {
	ctx, stop := context.WithCancelCause(outer)
	r.stop = stop
	r.tasks = tasks.NewManager(tasks.Options{
		Devices: r.devices, Identity: r.identity, Software: "abd " + r.options.Version, Log: r.log,
		PeerWait: r.options.PeerWait, OrchestratorWait: r.options.OrchestratorWait,
	})
	var group sync.WaitGroup
	start := func(what string, f func(context.Context) error) {
		group.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					stop(r.panicked(p))
				}
			}()
			if err := f(ctx); err != nil && ctx.Err() == nil {
				stop(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	start("serve", func(ctx context.Context) error { return newServer(r).serve(ctx, listener) })
	start("watch devices", func(ctx context.Context) error { return r.options.Guest.WatchDevices(ctx, r.deviceEvent) })
	start("watch for shutdown", r.watchShutdown)
	start("watch the domain", r.watchDomain)
	start("watch the orchestrator", r.watchIdle)
	if r.options.Network != nil {
		start("watch the network", r.watchNetwork)
	}
	start("publish", r.announce)

	<-ctx.Done()
	r.tasks.Close()
	group.Wait()
	if outer.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

func (r *runner) panicked(p any) error {
	r.log.Error("panic", "panic", p, "stack", string(debug.Stack()))
	return fmt.Errorf("defect: panic: %v", p)
}

func (r *runner) deviceEvent(e DeviceEvent) {
	if !e.Plugged {
		r.log.Info("disk unplugged", "device", e.Number)
		r.devices.Unplug(e.Number)
		return
	}
	r.log.Info("disk plugged", "device", e.Number, "path", e.Path, "read_only", e.ReadOnly)
	r.devices.Plug(e.Number, e.Path, e.ReadOnly)
}

func (r *runner) watchShutdown(ctx context.Context) error {
	for {
		word, err := r.options.Guest.AwaitShutdown(ctx)
		if err != nil {
			return err
		}
		if word == ShutdownPowerOff || word == ShutdownHalt || word == ShutdownReboot {
			r.stop(ordered{fmt.Sprintf("the pool asked for %s", word)})
			return nil
		}
		r.log.Warn("the pool asked for what a delegate cannot do", "request", word)
	}
}

// watchDomain publishes again when the VM was resumed or migrated: xapi then starts from nothing (xapi-facts §7.6).
func (r *runner) watchDomain(ctx context.Context) error {
	ticker := time.NewTicker(r.options.DomainPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		domain, err := r.options.Guest.Domain(ctx)
		if err != nil {
			r.log.Warn("the domain's identity cannot be read", "cause", err)
			continue
		}
		r.mu.Lock()
		changed := domain != r.configuration.domain
		r.configuration.domain = domain
		r.mu.Unlock()
		if !changed {
			continue
		}
		r.log.Warn("the VM was resumed or migrated", "unique_domain_id", domain.UniqueID)
		if err := r.publish(ctx); err != nil {
			return err
		}
	}
}

// speak notes that the orchestrator spoke.
func (r *runner) speak() { r.spoken.Store(int64(time.Since(r.started))) }

// watchIdle ends a delegate that its orchestrator has forgotten.
func (r *runner) watchIdle(ctx context.Context) error {
	limit := r.options.IdleTimeout
	for {
		idle := time.Since(r.started) - time.Duration(r.spoken.Load())
		if idle >= limit {
			return ordered{fmt.Sprintf("no orchestrator spoke for %v", limit)}
		}
		select {
		case <-time.After(limit - idle):
		case <-ctx.Done():
			return nil
		}
	}
}
