package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endSignals ask PID 1 to end, whatever they mean elsewhere. Without a handler some of them would end the process at once, and the
// kernel panics when PID 1 ends.
var endSignals = []os.Signal{
	syscall.SIGPWR, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGQUIT,
}

// Run has a worker do the machine's work, see OpenWorker, and then powers the machine off; like PowerOff, it returns only if that
// does not work. The worker is told to end, with the cause, when a signal asks for it (the kernel's /sbin/poweroff, ctrl-alt-del),
// when memory runs out, and when the work stops to beat; one that does not end within Options.Grace is killed. The cause of a
// worker's death is published from here.
func (m *Machine) Run() error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, endSignals...) // until the machine is off
	defer signal.Stop(signals)
	var cause string
	var told bool
	err := m.guarded(func() error {
		cause, told = m.supervise(signals)
		return nil
	})
	switch {
	case err != nil:
		return m.End(err.Error())
	case told:
		return m.PowerOff(cause)
	}
	return m.End(cause)
}

// End has the cause published (Options.Publish) and ends the machine, whatever comes of that. It returns only if that does not
// work. It is for a machine that no worker works in.
func (m *Machine) End(cause string) error {
	if m.options.Publish == nil {
		return m.PowerOff(cause)
	}
	m.log.Warn("the pool is told from PID 1", "cause", cause)
	ctx, cancel := context.WithTimeout(context.Background(), m.options.PublishLimit)
	defer cancel()
	published := make(chan error, 1)
	go func() { // left behind if it hangs
		published <- m.guarded(func() error { return m.options.Publish(ctx, m, cause) })
	}()
	select {
	case err := <-published:
		m.warn(err)
	case <-time.After(m.options.PublishLimit + time.Second): // it had a second to obey ctx
		m.log.Warn("telling the pool hangs")
	}
	return m.PowerOff(cause)
}

// guarded turns a panic into an error, with its stack on the console.
func (m *Machine) guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			m.log.Error("panic", "panic", p)
			for line := range strings.Lines(string(debug.Stack())) {
				m.console.print(strings.TrimRight(line, "\n"))
			}
			err = fmt.Errorf("defect: panic: %v", p)
		}
	}()
	return f()
}

// supervision is the life of one worker. One goroutine has it, so that a process is never killed after it was buried: its pid may
// be another's by then.
type supervision struct {
	*Machine
	worker *process
	ending error            // why the worker shall end; nil while it shall not
	late   <-chan time.Time // when it should have ended
	killed bool
	low    bool // memory was, when last looked at
}

// supervise starts the worker and returns when it has ended, or hangs in the kernel, with the cause of the machine's end and whether
// the worker has seen to its publication.
func (m *Machine) supervise(signals <-chan os.Signal) (cause string, told bool) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	defer signal.Stop(children)
	memory := time.NewTicker(m.options.MemoryPoll)
	defer memory.Stop()
	kick := time.NewTicker(m.options.Kick)
	defer kick.Stop()
	worker, err := m.startWorker()
	if err != nil {
		return err.Error(), false
	}
	s := &supervision{Machine: m, worker: worker}
	defer func() {
		if p := recover(); p != nil {
			s.kill() // the publication needs what the worker holds
			panic(p)
		}
	}()
	s.checkMemory()
	s.checkHeartbeat()
	silent := worker.silent
	for {
		if status, dead := s.bury(); dead {
			return s.outcome(status)
		}
		select {
		case <-children:
		case received := <-signals:
			s.end(causeOf(received))
		case <-memory.C:
			s.checkMemory()
		case <-kick.C:
			s.checkHeartbeat()
		case <-silent: // it is about to end
			silent, s.late = nil, time.After(farewell)
		case <-s.late:
			if s.killed {
				return s.outcome(0)
			}
			s.kill()
		}
	}
}

// causeOf says what a signal to PID 1 means.
func causeOf(s os.Signal) error {
	switch s {
	case powerOffSignal:
		return errors.New("the kernel asked for power off")
	case syscall.SIGINT:
		return errors.New("ctrl-alt-del was pressed")
	}
	return fmt.Errorf("signal: %v", s)
}

// end tells the worker to end; the first cause counts.
func (s *supervision) end(cause error) {
	if s.ending != nil {
		return
	}
	s.log.Warn("the machine shall end", "cause", cause)
	s.ending, s.late = cause, time.After(s.options.Grace)
	s.warn(s.worker.channel.send(wordEnd, cause.Error()))
}

func (s *supervision) kill() {
	s.killed, s.late = true, time.After(farewell)
	s.warn(s.system.Kill(s.worker.pid, unix.SIGKILL))
}

// checkMemory ends the machine when it has too little memory to go on. What the worker can give back it is asked for first.
func (s *supervision) checkMemory() {
	err := s.system.exhausted(s.worker.pid)
	switch {
	case err == nil:
		s.low = false
	case s.low:
		s.end(err)
	default:
		s.low = true
		s.warn(s.worker.channel.send(wordTrim, ""))
	}
}

// checkHeartbeat kicks the watchdog as long as the work beats, and ends the machine when it does no more. Work that ends does not
// beat, so that an end which the work began by itself cannot hang for ever either.
func (s *supervision) checkHeartbeat() {
	if silence := s.worker.silence(); silence > s.options.Stall {
		s.end(fmt.Errorf("the delegate's main loop has stood still for %v", silence.Round(time.Second)))
		return
	}
	if s.watchdog != nil {
		s.warn(s.watchdog.kick())
	}
}

// bury takes the exit status of all processes that have ended: orphans, which become children of PID 1, and the worker.
func (s *supervision) bury() (status unix.WaitStatus, dead bool) {
	for {
		var found unix.WaitStatus
		pid, err := unix.Wait4(-1, &found, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case pid <= 0:
			return status, dead
		case pid == s.worker.pid:
			status, dead = found, true
		}
	}
}

// outcome is the cause of the machine's end once the worker has gone, and whether the pool knows.
func (s *supervision) outcome(status unix.WaitStatus) (cause string, told bool) {
	s.warn(s.worker.join())
	if s.worker.off != "" {
		return s.worker.off, true
	}
	err := s.worker.death(s.system, status)
	if s.killed {
		err = fmt.Errorf("the delegate did not end within %v", s.options.Grace)
	}
	if s.ending != nil {
		err = fmt.Errorf("%w; %w", s.ending, err)
	}
	return err.Error(), false
}
