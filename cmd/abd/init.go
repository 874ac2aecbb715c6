package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/boot"
	"github.com/understudy-dr/understudy/appliance/guestqemu"
	"github.com/understudy-dr/understudy/appliance/guestxen"
	"github.com/understudy-dr/understudy/appliance/network"
)

const (
	// deviceWait is how long the device that tells the platform may take to show after the modules are loaded.
	deviceWait = 3 * time.Second
	// readingTime is how long a machine that is no delegate's stays up, so that a person at its screen can read why it goes.
	readingTime = 5 * time.Second
	// initMemory is what the Go runtime may hold in PID 1: what PID 1 takes the worker cannot have.
	initMemory = 12 << 20
)

// isInit tells whether this process is to be the init of its machine. With flags it is not: they are refused as elsewhere.
func isInit(arguments []string) bool {
	return os.Getpid() == 1 && (len(arguments) == 0 || arguments[0] == "" || arguments[0][0] != '-')
}

// runInit is the delegate as the init of its machine. It returns only when the machine cannot be powered off; the kernel then panics
// and ends it.
func runInit(stderr io.Writer) int {
	debug.SetMemoryLimit(initMemory)
	debug.SetGCPercent(25)
	machine, err := boot.Init(boot.Options{Version: version, System: boot.Kernel(), Publish: publish})
	if err == nil {
		err = machine.Run()
	} else {
		err = machine.End(err.Error())
	}
	say(stderr, fmt.Sprintf("abd: %v", err))
	return exitFailed
}

// publish tells the pool why a delegate ends that died, and powers the machine off.
func publish(ctx context.Context, machine *boot.Machine, cause string) error {
	g, err := openGuest(ctx, machine.Console(), machine.PowerOff)
	if err != nil {
		return fmt.Errorf("the pool is not told: %w", err)
	}
	return errors.Join(g.PowerOff(ctx, cause), g.Close())
}

// runWorker is the delegate as the worker of its machine's PID 1. It returns only when PID 1 cannot be told that it ends.
func runWorker(stderr io.Writer) int {
	worker, err := boot.OpenWorker(boot.Kernel())
	if err != nil {
		say(stderr, fmt.Sprintf("abd: %v", err))
		return exitUsage
	}
	appliance.LimitMemory()
	err = worker.Run(func(ctx context.Context) error { return serve(ctx, worker) })
	say(stderr, fmt.Sprintf("abd: %v", err))
	return exitFailed
}

func serve(ctx context.Context, worker *boot.Worker) (err error) {
	g, err := openGuest(ctx, worker.Console(), worker.PowerOff)
	if err != nil {
		if errors.Is(err, errNoPlatform) {
			select {
			case <-time.After(readingTime):
			case <-ctx.Done():
			}
		}
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	if err := boot.Kernel().CheckMemory(); err != nil {
		return errors.Join(err, g.PowerOff(ctx, err.Error()))
	}
	return appliance.Run(ctx, appliance.Options{
		Guest: beating{g, worker.Beat}, Network: network.New(boot.Kernel().LoadModule), Version: version, Console: worker.Console(),
	})
}

// guest is what both platforms' guests are.
type guest interface {
	appliance.Guest
	io.Closer
}

// errNoPlatform is returned by openGuest on a machine that is no delegate's.
var errNoPlatform = fmt.Errorf("this machine is neither a Xen guest (no %s) nor configured by QEMU (no %s): boot the image in a pool, "+
	"or give QEMU the fw_cfg item", guestxen.Device, guestqemu.ConfigurationPath)

// openGuest finds out what the machine runs on. XenStore comes first: a Xen guest with emulated hardware has a QEMU, too.
func openGuest(ctx context.Context, console slog.Handler, powerOff func(cause string) error) (guest, error) {
	log := slog.New(console)
	switch boot.Kernel().AwaitPath(deviceWait, guestxen.Device, guestqemu.ConfigurationPath) {
	case guestxen.Device:
		log.Info("the machine is a Xen guest")
		return guestxen.Open(ctx, guestxen.Options{PowerOff: powerOff, Log: log})
	case guestqemu.ConfigurationPath:
		log.Info("the machine is a QEMU guest")
		return guestqemu.Open(ctx, guestqemu.Options{PowerOff: powerOff, Log: log})
	}
	log.Error(errNoPlatform.Error())
	return nil, errNoPlatform
}

// beating tells PID 1 that the delegate's main loop goes round: appliance.Run asks for the domain every two seconds while it
// serves, and no more when it ends.
type beating struct {
	appliance.Guest
	beat func()
}

// Domain implements appliance.Guest.
func (b beating) Domain(ctx context.Context) (appliance.Domain, error) {
	b.beat()
	return b.Guest.Domain(ctx)
}
