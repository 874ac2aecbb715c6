package boot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

const (
	// workerName is how PID 1 calls the program that shall be its worker (argv[0]).
	workerName = "abd-worker"
	// workerChannel is the worker's descriptor of its channel to PID 1: the first after standard error.
	workerChannel = 3
)

// ErrNoWorker is returned by OpenWorker in a process that PID 1 did not start.
var ErrNoWorker = errors.New("only PID 1 of a delegate's machine starts its worker: boot the image instead")

// IsWorkerCommand tells whether a program was called (argv[0]) as PID 1 calls its worker.
func IsWorkerCommand(name string) bool { return filepath.Base(name) == workerName }

// Worker is the process that does the machine's work, as it sees itself: the same program as PID 1, and its child. Its standard
// error leads to the consoles, and so does what the Go runtime writes there of a panic. Its methods may be called by several
// goroutines.
type Worker struct {
	channel channel
	log     *slog.Logger
}

// OpenWorker makes this process the worker; once. It refuses in a process that PID 1 did not start for that.
func OpenWorker(s System) (*Worker, error) {
	if parent := s.Parent(); parent != 1 {
		return nil, fmt.Errorf("boot: the parent is process %d: %w", parent, ErrNoWorker)
	}
	// The other end is our parent's if it made the pair.
	peer, err := unix.GetsockoptUcred(workerChannel, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, fmt.Errorf("boot: descriptor %d is no channel: %w: %w", workerChannel, err, ErrNoWorker)
	}
	if int(peer.Pid) != os.Getppid() {
		return nil, fmt.Errorf("boot: the channel is from process %d: %w", peer.Pid, ErrNoWorker)
	}
	unix.CloseOnExec(workerChannel)
	w := &Worker{
		channel: newChannel(workerChannel),
		// PID 1 reads all the time and never waits for a console.
		log: slog.New(newConsoleHandler(func(line string) { _, _ = os.Stderr.WriteString(line + "\n") })),
	}
	// When memory runs out the kernel shall kill this process; PID 1 then says so.
	if err := os.WriteFile(s.path("/proc/self/oom_score_adj"), []byte("1000\n"), 0o644); err != nil {
		w.log.Warn("the kernel may kill another process first when memory runs out", "cause", err)
	}
	return w, nil
}

// Console is a handler whose lines stand on the machine's consoles, each after the kernel's uptime.
func (w *Worker) Console() slog.Handler { return w.log.Handler() }

// Beat is to be called by the main loop of the work, much more often than Options.Stall.
func (w *Worker) Beat() { _ = w.channel.send(wordBeat, "") } // a beat that does not arrive is missed by PID 1

// Run works until the work returns, and then has PID 1 power the machine off with the work's error as its cause; it returns only if
// that does not work. The work's context ends, with its cause, when PID 1 asks for the end. A panic is left to kill the process: PID 1
// sees to the rest.
func (w *Worker) Run(work func(ctx context.Context) error) error {
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	go func() { // ends with the process, and the process with Run
		err := w.channel.receive(func(what word, text string) bool {
			switch what {
			case wordEnd:
				stop(errors.New(text))
			case wordTrim:
				debug.FreeOSMemory()
			}
			return true
		})
		stop(cmp.Or(err, errors.New("PID 1 has closed the channel")))
	}()
	err := work(ctx)
	if cause := context.Cause(ctx); cause != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = cause
	}
	return w.PowerOff(cmp.Or(err, errors.New("the work is done")).Error())
}

// PowerOff has PID 1 end the machine, with this cause as the console's last line, and ends the process. It returns only if PID 1
// cannot be told. Whether the pool was told the cause is the caller's affair.
func (w *Worker) PowerOff(cause string) error {
	if err := w.channel.send(wordOff, cause); err != nil {
		return err
	}
	os.Exit(0)
	return nil
}
