package guestxen

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/appliance/sysblock"
	"github.com/understudy-dr/understudy/appliance/xenstore"
)

// Device is where Linux offers XenStore. A machine that has it is one for this package.
const Device = xenstore.Device

const (
	shutdownKey = "control/shutdown"
	dataPrefix  = "vm-data/"
)

// Options of Open.
type Options struct {
	// Root is where dev and sys are; default /. For tests.
	Root string
	// Connection is to XenStore; default Device below Root. Guest.Close closes it.
	Connection io.ReadWriteCloser
	// PowerOff ends the machine and does not return but for an error.
	PowerOff func(cause string) error
	// AnswerTimeout is that of xenstore.Options.
	AnswerTimeout time.Duration
	// Poll is that of sysblock.Options.
	Poll time.Duration
	// Log takes what is wrong with single disks; default none.
	Log *slog.Logger
}

// Guest is an appliance.Guest.
type Guest struct {
	options  Options
	store    *xenstore.Client
	shutdown *xenstore.Watch
}

// Open connects to XenStore. ctx bounds Open alone.
func Open(ctx context.Context, o Options) (*Guest, error) {
	if o.PowerOff == nil {
		return nil, errors.New("guestxen: no PowerOff")
	}
	o.Root = cmp.Or(o.Root, "/")
	settings := xenstore.Options{AnswerTimeout: o.AnswerTimeout}
	var store *xenstore.Client
	if o.Connection != nil {
		store = xenstore.New(o.Connection, settings)
	} else {
		var err error
		if store, err = xenstore.Open(filepath.Join(o.Root, Device), settings); err != nil {
			return nil, fmt.Errorf("guestxen: %w", err)
		}
	}
	shutdown, err := store.Watch(ctx, shutdownKey)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("guestxen: %w", err), store.Close())
	}
	return &Guest{options: o, store: store, shutdown: shutdown}, nil
}

// Close frees the connection to XenStore. It returns why the connection had ended, if it had.
func (g *Guest) Close() error {
	if err := g.store.Close(); err != nil {
		return fmt.Errorf("guestxen: %w", err)
	}
	return nil
}

// Domain implements appliance.Guest.
func (g *Guest) Domain(ctx context.Context) (appliance.Domain, error) {
	vm, err := g.store.Read(ctx, "vm")
	if err == nil {
		var id string
		if id, err = g.store.Read(ctx, "unique-domain-id"); err == nil {
			return appliance.Domain{VM: strings.TrimPrefix(vm, "/vm/"), UniqueID: id}, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", appliance.ErrNoDomain, err)
	}
	return appliance.Domain{}, fmt.Errorf("guestxen: %w", err)
}

// Input implements appliance.Guest.
func (g *Guest) Input(ctx context.Context) (map[string]string, error) {
	names, err := g.store.Directory(ctx, strings.TrimSuffix(control.InputPrefix, "/"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("guestxen: %w", err)
	}
	input := make(map[string]string, len(names))
	for _, name := range names {
		value, err := g.store.Read(ctx, control.InputPrefix+name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // went meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("guestxen: %w", err)
		}
		input[name] = value
	}
	return input, nil
}

// Publish implements appliance.Guest. The error is fs.ErrPermission when the pool does not let the guest write.
func (g *Guest) Publish(ctx context.Context, entries ...appliance.Entry) error {
	for _, e := range entries {
		if err := g.write(ctx, e.Key, e.Value); err != nil {
			return err
		}
	}
	return nil
}

func (g *Guest) write(ctx context.Context, key, value string) error {
	err := g.store.Write(ctx, key, value)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission) && strings.HasPrefix(key, dataPrefix):
		return fmt.Errorf("guestxen: publish: %w: VM.set_xenstore_data on a running VM takes the guest's right to write vm-data: "+
			"shut this delegate down, so that another is started", err)
	default:
		return fmt.Errorf("guestxen: publish: %w", err)
	}
}

// WatchDevices implements appliance.Guest.
func (g *Guest) WatchDevices(ctx context.Context, report func(appliance.DeviceEvent)) error {
	return sysblock.Watch(ctx, sysblock.Options{
		Sys: filepath.Join(g.options.Root, "sys"), Dev: filepath.Join(g.options.Root, "dev"),
		Number: number, Poll: g.options.Poll, Log: g.options.Log,
	}, report)
}

// AwaitShutdown implements appliance.Guest for the requests that the kernel left; see the package's documentation. It also returns
// when the connection to XenStore ends.
func (g *Guest) AwaitShutdown(ctx context.Context) (appliance.Shutdown, error) {
	for {
		word, err := g.takeShutdown(ctx)
		if err != nil {
			return "", fmt.Errorf("guestxen: await %s: %w", shutdownKey, err)
		}
		if word != "" {
			return word, nil
		}
		select {
		case <-g.shutdown.Events():
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-g.store.Ended():
			return "", fmt.Errorf("guestxen: await %s: %w", shutdownKey, g.store.Err())
		}
	}
}

// takeShutdown acknowledges a request to end that is there, and returns its word.
func (g *Guest) takeShutdown(ctx context.Context) (appliance.Shutdown, error) {
	value, err := g.store.Read(ctx, shutdownKey)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	switch word := appliance.Shutdown(value); word {
	case appliance.ShutdownPowerOff, appliance.ShutdownHalt, appliance.ShutdownReboot:
		return word, g.store.Write(ctx, shutdownKey, "") // as the kernel acknowledges
	}
	return "", nil
}

// PowerOff implements appliance.Guest. The machine is told the whole cause. It ends even when the cause cannot be published, and is
// then told that too.
func (g *Guest) PowerOff(ctx context.Context, cause string) error {
	err := g.Publish(ctx, appliance.Entry{Key: control.CauseKey, Value: appliance.CauseText(cause)})
	if err != nil {
		cause += fmt.Sprintf(" (the pool was not told: %v)", err)
	}
	return errors.Join(err, g.options.PowerOff(cause))
}
