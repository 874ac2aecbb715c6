package boot_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/appliance/boot"
)

// run has a machine work and returns its last line.
func (w *world) run(o boot.Options, work func(ctx context.Context, m *boot.Machine) error) string {
	w.t.Helper()
	m := w.boot(o)
	done := make(chan error)
	go func() { done <- m.Run(func(ctx context.Context) error { return work(ctx, m) }) }()
	select {
	case err := <-done:
		if err != nil {
			w.t.Errorf("Run is %v", err)
		}
	case <-time.After(within):
		w.t.Fatal("Run does not end")
	}
	if got := w.asked("power off"); len(got) != 1 {
		w.t.Errorf("powered off %d times", len(got))
	}
	return strings.TrimPrefix(w.awaitLine("understudy: power off: "), "understudy: power off: ")
}

// obey is work that ends when it is told to.
func obey(ctx context.Context, _ *boot.Machine) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestWorkEnds(t *testing.T) {
	for name, test := range map[string]struct {
		work func(context.Context, *boot.Machine) error
		want string
	}{
		"well":        {func(context.Context, *boot.Machine) error { return nil }, "the work is done"},
		"badly":       {func(context.Context, *boot.Machine) error { return errors.New("no address") }, "no address"},
		"by a panic":  {func(context.Context, *boot.Machine) error { panic("torn") }, "defect: panic: torn"},
		"by its own":  {func(_ context.Context, m *boot.Machine) error { return m.PowerOff("the pool asked") }, "the pool asked"},
		"by a signal": {signalled(syscall.SIGTERM), "signal: terminated"},
		"by SIGPWR":   {signalled(syscall.SIGPWR), "the kernel asked for power off"},
		"by keys":     {signalled(syscall.SIGINT), "ctrl-alt-del was pressed"},
		"by SIGUSR2":  {signalled(syscall.SIGUSR2), "signal: user defined signal 2"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if got := w.run(w.options(), test.work); got != test.want {
				t.Errorf("the cause is %q, want %q", got, test.want)
			}
		})
	}
}

// signalled is work that is there when a signal comes; the signal may come before the machine listens for it.
func signalled(s syscall.Signal) func(context.Context, *boot.Machine) error {
	return func(ctx context.Context, _ *boot.Machine) error {
		time.Sleep(50 * time.Millisecond) // the process ends if the machine does not listen by then
		if err := syscall.Kill(os.Getpid(), s); err != nil {
			return err
		}
		return obey(ctx, nil)
	}
}

// The stack of a panic is on the console, line by line.
func TestPanicStack(t *testing.T) {
	w := newWorld(t)
	m := w.boot(w.options())
	if err := m.Run(func(context.Context) error { panic("torn") }); err != nil {
		t.Error(err)
	}
	w.awaitLine("error: panic panic=torn")
	w.awaitLine("boot_test.TestPanicStack")
}

func TestMemoryGuard(t *testing.T) {
	w := newWorld(t)
	w.write("/proc/self/status", "VmHWM:  1 kB\nVmRSS:\t 102400 kB\n")
	w.write("/proc/meminfo", meminfo(217, 16)) // the floor itself is enough
	got := w.run(w.options(), func(ctx context.Context, _ *boot.Machine) error {
		select {
		case <-ctx.Done():
			return errors.New("ended too early")
		case <-time.After(50 * time.Millisecond):
		}
		w.replace("/proc/meminfo", meminfo(217, 15))
		return obey(ctx, nil)
	})
	if want := "memory exhausted: 15 MiB of 217 are available, less than 16; the delegate holds 100 MiB"; got != want {
		t.Errorf("the cause is %q, want %q", got, want)
	}
}

// An end that was asked for and does not come is forced.
func TestForced(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	o.Grace = 50 * time.Millisecond
	got := w.run(o, func(ctx context.Context, _ *boot.Machine) error {
		w.replace("/proc/meminfo", meminfo(217, 1))
		<-ctx.Done()
		for len(w.asked("power off")) == 0 { // deaf: on a real machine it would go on for ever
			time.Sleep(5 * time.Millisecond)
		}
		return nil
	})
	if !strings.Contains(got, "memory exhausted") || !strings.HasSuffix(got, "the delegate did not end within 50ms") {
		t.Errorf("the cause is %q", got)
	}
}

// A power-off that the kernel refuses is an error, and PID 1 must not take it for done.
func TestPowerOffFails(t *testing.T) {
	w := newWorld(t)
	w.fails["power off"] = unix.EPERM
	m := w.boot(w.options())
	if err := m.Run(func(context.Context) error { return nil }); !errors.Is(err, unix.EPERM) {
		t.Errorf("Run is %v, want EPERM", err)
	}
}

// watchdogs puts these into the machine, by identity.
func (w *world) watchdogs(identities map[string]string) {
	for name, identity := range identities {
		w.write("/sys/class/watchdog/"+name+"/identity", identity+"\n")
		w.write("/dev/"+name, "")
	}
}

func TestWatchdog(t *testing.T) {
	w := newWorld(t)
	w.watchdogs(map[string]string{"watchdog0": "Software Watchdog", "watchdog1": "Xen Watchdog Timer", "watchdog2": "Another"})
	w.run(w.options(), func(ctx context.Context, m *boot.Machine) error {
		for range 20 {
			m.Beat()
			time.Sleep(10 * time.Millisecond)
		}
		return nil
	})
	kicks := w.read("/dev/watchdog1")
	if count := strings.Count(kicks, "\x00"); count < 5 || kicks != strings.Repeat("\x00", count)+"V" {
		t.Errorf("the watchdog took %q, want kicks and a magic close", kicks)
	}
	if got := w.read("/dev/watchdog0") + w.read("/dev/watchdog2"); got != "" {
		t.Errorf("the other watchdogs took %q", got)
	}
}

func TestSoftwareWatchdog(t *testing.T) {
	w := newWorld(t)
	w.watchdogs(map[string]string{"watchdog0": "Software Watchdog"})
	w.run(w.options(), func(context.Context, *boot.Machine) error { return nil })
	if kicks := w.read("/dev/watchdog0"); !strings.HasSuffix(kicks, "V") {
		t.Errorf("the watchdog took %q", kicks)
	}
}

func TestNoWatchdog(t *testing.T) {
	w := newWorld(t)
	w.boot(w.options())
	w.awaitLine("warn: no watchdog")
}

// Work that no longer beats ends the machine, and the watchdog is not kicked for it.
func TestStall(t *testing.T) {
	w := newWorld(t)
	w.watchdogs(map[string]string{"watchdog0": "Xen"})
	o := w.options()
	o.Stall = 100 * time.Millisecond
	got := w.run(o, func(ctx context.Context, _ *boot.Machine) error {
		<-ctx.Done()
		before := w.read("/dev/watchdog0")
		time.Sleep(50 * time.Millisecond)
		if after := w.read("/dev/watchdog0"); before == "" || after != before {
			t.Errorf("the watchdog took %q, then %q", before, after)
		}
		return nil
	})
	if !strings.Contains(got, "main loop has stood still") {
		t.Errorf("the cause is %q", got)
	}
}
