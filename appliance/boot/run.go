package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Run does the machine's work and then powers the machine off; like PowerOff, it returns only if that does not work. The work's
// context ends, with its cause, when a signal asks for it (the kernel's /sbin/poweroff, ctrl-alt-del), when memory runs out, and
// when the work stops to beat. Work that does not end within Options.Grace then is left behind. A panic of the work is an end
// like others, its stack on the console.
func (m *Machine) Run(work func(ctx context.Context) error) error {
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	var force *time.Timer
	var once sync.Once
	end := func(cause error) {
		once.Do(func() {
			m.log.Warn("the machine shall end", "cause", cause)
			stop(cause)
			force = time.AfterFunc(m.options.Grace, func() {
				_ = m.PowerOff(fmt.Sprintf("%v; the delegate did not end within %v", cause, m.options.Grace)) // Run returns the error
			})
		})
	}
	m.Beat()
	var group sync.WaitGroup
	for _, duty := range []func(context.Context) error{m.awaitSignal, m.watchMemory, m.watchHeartbeat, reap} {
		group.Go(func() {
			if err := m.guarded(ctx, duty); err != nil {
				end(err)
			}
		})
	}
	err := m.guarded(ctx, work)
	if cause := context.Cause(ctx); cause != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = cause
	}
	stop(nil)
	group.Wait()
	if force != nil {
		force.Stop()
	}
	if err == nil {
		err = errors.New("the work is done")
	}
	return m.PowerOff(err.Error())
}

// guarded turns a panic into an error.
func (m *Machine) guarded(ctx context.Context, f func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			m.log.Error("panic", "panic", p)
			for line := range strings.Lines(string(debug.Stack())) {
				m.console.print(strings.TrimRight(line, "\n"))
			}
			err = fmt.Errorf("defect: panic: %v", p)
		}
	}()
	return f(ctx)
}

// endSignals ask PID 1 to end, whatever they mean elsewhere. Without a handler some of them would end the process at once, and the
// kernel panics when PID 1 ends.
var endSignals = []os.Signal{
	syscall.SIGPWR, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGQUIT,
}

// awaitSignal returns the signal that asks for the machine's end.
func (m *Machine) awaitSignal(ctx context.Context) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, endSignals...)
	defer signal.Stop(signals)
	select {
	case s := <-signals:
		switch s {
		case powerOffSignal:
			return errors.New("the kernel asked for power off")
		case syscall.SIGINT:
			return errors.New("ctrl-alt-del was pressed")
		}
		return fmt.Errorf("signal: %v", s)
	case <-ctx.Done():
		return nil
	}
}

// watchMemory returns when the machine has too little memory to go on.
func (m *Machine) watchMemory(ctx context.Context) error {
	ticker := time.NewTicker(m.options.MemoryPoll)
	defer ticker.Stop()
	for {
		if err := m.system.exhausted(); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// watchHeartbeat kicks the watchdog as long as the work beats, and returns when it does no more. Work that ends does not beat, so
// that an end which the work began by itself cannot hang for ever either.
func (m *Machine) watchHeartbeat(ctx context.Context) error {
	ticker := time.NewTicker(m.options.Kick)
	defer ticker.Stop()
	for {
		if silence := time.Since(m.started) - time.Duration(m.beat.Load()); silence > m.options.Stall {
			return fmt.Errorf("the delegate's main loop has stood still for %v", silence.Round(time.Second))
		}
		if m.watchdog != nil {
			if err := m.watchdog.kick(); err != nil {
				m.warn(err)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// reap buries orphans, which become children of PID 1. This process starts no children of its own: with os/exec it would
// compete for their exit status.
func reap(ctx context.Context) error {
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	defer signal.Stop(died)
	for {
		for buried := true; buried; { // one signal may stand for several
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			buried = pid > 0 || errors.Is(err, unix.EINTR)
		}
		select {
		case <-died:
		case <-ctx.Done():
			return nil
		}
	}
}
