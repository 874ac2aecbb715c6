package delegate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// dialPause is the time between attempts to reach a delegate that says it listens: a switch may take a moment to learn where
// it is.
const dialPause = 200 * time.Millisecond

// boot is one start of a delegate, as it was configured.
type boot struct {
	nonce   string
	address string // "ip:port"; empty: the delegate tells when it has one
	hash    string // control.ConfigurationHash of the input
}

// configure makes the clone a VM that may be started, and gives it its input. Everything else below vm-data goes: it is the
// template's or an earlier guest's (xapi-facts §7.3), and would be taken for this guest's word.
func (s *Spawner) configure(ctx context.Context, d *Delegate, host xapi.Ref, network network) (boot, error) {
	nonce, err := newNonce()
	if err != nil {
		return boot{}, err
	}
	input := map[string]string{
		control.InputNonce: nonce, control.InputOrchestrator: string(s.Identity.Fingerprint()), control.InputAddress: network.addressInput(),
	}
	if network.gateway != "" {
		input[control.InputGateway] = network.gateway
	}
	if network.mtu != 0 {
		input[control.InputMTU] = strconv.Itoa(network.mtu)
	}
	api := d.pool.API
	vm, err := xapi.GetRecord[xapi.VM](ctx, api, "VM", d.Ref)
	if err != nil {
		return boot{}, err
	}
	if err := s.connect(ctx, d, vm, network.uuid); err != nil {
		return boot{}, err
	}
	data := maps.Clone(vm.XenstoreData)
	if data == nil {
		data = map[string]string{}
	}
	maps.DeleteFunc(data, func(key, _ string) bool { return key == "vm-data" || strings.HasPrefix(key, "vm-data/") })
	for name, value := range input {
		data[control.InputPrefix+name] = value
	}
	calls := []struct {
		method string
		args   []any
	}{
		{"VM.set_affinity", []any{d.Ref, host}},
		{"VM.add_tags", []any{d.Ref, replica.TagLeaveAlone}},
		{"VM.set_xenstore_data", []any{d.Ref, data}},
	}
	if vm.HARestartPriority != "" {
		calls = append(calls, struct {
			method string
			args   []any
		}{"VM.set_ha_restart_priority", []any{d.Ref, ""}})
	}
	ours := func(vm xapi.VM) bool { return !vm.IsATemplate }
	if err := xapi.Ensure(ctx, api, "VM.provision", xapi.Record(api, "VM", d.Ref, ours), d.Ref); err != nil { // no template any more
		return boot{}, err
	}
	for _, call := range calls {
		if err := api.Call(ctx, call.method, nil, call.args...); err != nil {
			return boot{}, err
		}
	}
	b := boot{nonce: nonce, hash: control.ConfigurationHash(input)}
	if network.dhcp == "" {
		b.address = hostPort(network.address.Addr())
	}
	return b, nil
}

// connect has a clone's interface on the network that was named for the pool's delegates, if one was.
func (s *Spawner) connect(ctx context.Context, d *Delegate, vm xapi.VM, uuid string) error {
	if uuid == "" {
		return nil
	}
	api := d.pool.API
	wanted, err := xapi.GetByUUID(ctx, api, "network", uuid)
	if xapi.IsCode(err, codeUUIDInvalid) {
		return fmt.Errorf("the network %s of the delegates is gone: name another one ('understudy pool add %s' again with --delegate-network)", uuid, d.pool.Name)
	} else if err != nil {
		return err
	}
	vif, err := xapi.GetRecord[xapi.VIF](ctx, api, "VIF", vm.VIFs[0])
	if err != nil || vif.Network == wanted {
		return err
	}
	return api.Call(ctx, "VIF.move", nil, vm.VIFs[0], wanted)
}

// meet waits for the guest's published identity, makes sure over TLS that it is this start of this VM, and gives it the key.
func (s *Spawner) meet(ctx context.Context, d *Delegate, b boot) error {
	errLate := fmt.Errorf("%w within %v", ErrNotReady, d.timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, d.timeout, errLate)
	defer cancel()
	identity, err := d.awaitIdentity(ctx, b.nonce)
	if err != nil {
		return err
	}
	if b.address == "" {
		if b.address, err = d.awaitAddress(ctx); err != nil {
			return err
		}
	}
	d.Address, d.Fingerprint, d.Version = b.address, identity.Fingerprint, identity.Version
	d.control = control.NewClient(control.ClientOptions{Address: b.address, Identity: s.Identity, Peer: identity.Fingerprint, Dial: s.Dial})
	status, err := d.reach(ctx)
	if err != nil {
		return err
	}
	if err := d.verify(status, b, identity); err != nil {
		return err
	}
	return d.control.SetKey(ctx, s.Key)
}

// awaitIdentity waits until the VM's own vm-data shows an identity with the nonce of this start. Any other value is stale or
// somebody else's.
func (d *Delegate) awaitIdentity(ctx context.Context, nonce string) (identity control.Identity, err error) {
	power, note := xapi.Running, "it published nothing"
	err = watch(ctx, d.pool.API, d.Ref, func(vm xapi.VM) (bool, error) {
		power = vm.PowerState
		if power == xapi.Halted {
			cause := cmp.Or(vm.XenstoreData[control.CauseKey], "it gave no cause")
			return false, fmt.Errorf("%w: %s powered off while it booted: %.300q; look at its host's log and whether the image is whole",
				ErrNotReady, d.Name(), cause)
		}
		text, ok := vm.XenstoreData[control.IdentityKey]
		if !ok {
			return false, nil
		}
		var err error
		if identity, err = control.ParseIdentity(text); err != nil {
			note = err.Error()
			return false, nil
		}
		if identity.Nonce != nonce {
			note = fmt.Sprintf("it published the identity of another start (nonce %.64q)", identity.Nonce)
			return false, nil
		}
		return true, nil
	})
	if late := context.Cause(ctx); errors.Is(late, ErrNotReady) {
		return identity, fmt.Errorf("%w: %s is %s, %s; look at its console", late, d.Name(), power, note)
	}
	return identity, err
}

// reach asks for the delegate's status until it answers.
func (d *Delegate) reach(ctx context.Context) (control.Status, error) {
	last := errors.New("no answer")
	for {
		status, err := d.control.Status(ctx)
		var refused *control.Error
		switch {
		case err == nil:
			return status, nil
		case errors.Is(err, netproto.ErrIdentity):
			return status, fmt.Errorf("%w: %w", ErrIdentity, err)
		case errors.As(err, &refused):
			return status, err
		case ctx.Err() == nil:
			last = err
		}
		if late := pause(ctx, dialPause); late != nil {
			return status, fmt.Errorf("%w: %s says that it listens on %s, but cannot be reached: %w", late, d.Name(), d.Address, last)
		}
	}
}

// verify compares what the delegate says over TLS with what was asked of it.
func (d *Delegate) verify(status control.Status, b boot, identity control.Identity) error {
	if status.Protocol.Major != netproto.VersionMajor {
		mend := "upgrade the image"
		if status.Protocol.Major > netproto.VersionMajor {
			mend = "upgrade the orchestrator, or deploy the image of its version"
		}
		return fmt.Errorf("%w: it speaks version %d.%d of the protocol, the orchestrator %d.%d; %s",
			ErrImage, status.Protocol.Major, status.Protocol.Minor, netproto.VersionMajor, netproto.VersionMinor, mend)
	}
	for _, one := range []struct{ what, got, want string }{
		{"VM", status.VM, d.UUID},
		{"nonce", status.Nonce, b.nonce},
		{"unique domain id", status.UniqueDomainID, identity.UniqueDomainID},
		{"configuration hash", status.ConfigurationHash, b.hash},
	} {
		if one.got != one.want {
			return fmt.Errorf("%w: its %s is %.80q, not %q: somebody changes the VM's data or answers in its place; "+
				"find out who writes to pool %s", ErrIdentity, one.what, one.got, one.want, d.pool.Name)
		}
	}
	return nil
}
