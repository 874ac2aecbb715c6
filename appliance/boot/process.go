package boot

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// program is this one, whatever became of its file.
const program = "/proc/self/exe"

// process is the worker as PID 1 sees it.
type process struct {
	pid     int
	channel channel
	output  *os.File // what it writes to standard output and standard error
	kills   int64    // of the kernel for want of memory, before it started
	readers sync.WaitGroup
	started time.Time
	beat    atomic.Int64  // when its main loop last beat, as time since started
	silent  chan struct{} // closed when no more messages come

	// To be read after join:

	off   string // the cause that it gave for the machine's end; "" when it did not
	crash string // the first line of what the Go runtime wrote when the process died of a panic or a fatal error
}

// startWorker starts this program as the machine's worker. Its output is printed as it is: log lines are made there.
func (m *Machine) startWorker() (*process, error) {
	ours, theirs, err := openChannel()
	if err != nil {
		return nil, fmt.Errorf("boot: channel to the worker: %w", err)
	}
	defer func() { _ = unix.Close(theirs) }() // the worker has its own by then
	p := &process{channel: newChannel(ours), kills: m.system.kills(), started: time.Now(), silent: make(chan struct{})}
	output, err := p.fork(theirs)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("boot: start the worker: %w", err), p.channel.file.Close())
	}
	p.output = output
	p.readers.Go(func() {
		defer close(p.silent)
		m.warn(p.channel.receive(p.take))
	})
	p.readers.Go(func() { m.warn(p.print(m.console.print)) })
	m.log.Info("worker started", "pid", p.pid)
	return p, nil
}

// fork starts the process and returns the reading end of its output.
func (p *process) fork(channel int) (*os.File, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer writer.Close()
	p.pid, err = syscall.ForkExec(program, []string{workerName}, &syscall.ProcAttr{
		Env: os.Environ(),
		// The channel becomes descriptor workerChannel.
		Files: []uintptr{null.Fd(), writer.Fd(), writer.Fd(), uintptr(channel)},
		// Without PID 1 the kernel panics; elsewhere, in tests, nothing may stay behind. The signal is bound to the thread that
		// forks, and Go ends no thread but one locked to a goroutine that ended.
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return nil, errors.Join(err, reader.Close())
	}
	return reader, nil
}

// take handles one of the worker's messages.
func (p *process) take(what word, text string) (more bool) {
	switch what {
	case wordBeat:
		p.beat.Store(int64(time.Since(p.started)))
	case wordOff:
		p.off = text
		return false
	}
	return true
}

// print prints the worker's output line by line; a line too long comes in parts.
func (p *process) print(print func(line string)) error {
	lines := bufio.NewReaderSize(p.output, maxLine)
	for {
		line, _, err := lines.ReadLine()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("boot: output of the worker: %w", err)
		}
		text := string(line)
		if p.crash == "" && (strings.HasPrefix(text, "panic: ") || strings.HasPrefix(text, "fatal error: ")) {
			p.crash = text
		}
		print(text)
	}
}

// silence is how long the worker's main loop has not beaten.
func (p *process) silence() time.Duration {
	return time.Since(p.started) - time.Duration(p.beat.Load())
}

// join takes in what a worker that has ended left in its channel and its output, and frees both. One that hangs in the kernel still
// holds the other ends: it is not waited for.
func (p *process) join() error {
	limit := time.Now().Add(farewell)
	err := errors.Join(p.channel.file.SetReadDeadline(limit), p.output.SetReadDeadline(limit))
	p.readers.Wait()
	return errors.Join(err, p.channel.file.Close(), p.output.Close())
}

// death tells why the worker died without a cause of its own.
func (p *process) death(s System, status unix.WaitStatus) error {
	switch {
	case status.Signaled() && status.Signal() == unix.SIGKILL && s.kills() > p.kills:
		return errors.New("memory exhausted: the kernel killed the delegate's worker")
	case status.Signaled():
		return fmt.Errorf("the delegate's worker was ended by signal: %v", status.Signal())
	case p.crash != "":
		return errors.New("defect: " + p.crash)
	}
	return fmt.Errorf("defect: the delegate's worker ended with exit code %d", status.ExitStatus())
}
