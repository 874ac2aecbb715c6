package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/qmp"
)

// machine is a running QEMU.
type machine struct {
	blockSize int
	command   *exec.Cmd
	qmp       *qmp.Client
	port      *port
	*tree
	exited chan struct{}   // closed when the process has ended
	life   context.Context // ends when nothing is left to do, after that
	gone   context.CancelFunc

	mu       sync.Mutex
	disks    map[string]attached // by user device; one whose unplug timed out stays
	attempts int                 // at plugging, so that ids are unique
}

// run starts QEMU and returns when it answers. On an error nothing is left; otherwise the caller calls watch.
func run(ctx context.Context, o Options, dir string, arguments []string, disks map[string]attached, t *tree) (*machine, error) {
	ourQMP, theirQMP, err := pair("qmp")
	if err != nil {
		return nil, err
	}
	defer theirQMP.Close()
	ourPort, theirPort, err := pair("port")
	if err != nil {
		_ = ourQMP.Close() // what failed first counts
		return nil, err
	}
	defer theirPort.Close()
	g := &machine{blockSize: o.BlockSize, tree: t, disks: disks, exited: make(chan struct{})}
	g.life, g.gone = context.WithCancel(context.Background())
	g.port, err = newPort(ourPort, filepath.Join(dir, portFile), t)
	if err != nil {
		_ = ourQMP.Close() // as above
		return nil, errors.Join(err, ourPort.Close())
	}
	complaints := filepath.Join(dir, complaintsFile)
	if err := g.launch(o.Program, arguments, []*os.File{theirQMP, theirPort}, complaints); err != nil {
		_ = ourQMP.Close() // as above
		g.port.close()
		return nil, err
	}
	_ = theirQMP.Close() // QEMU has its own; with ours open its end would not show
	if g.qmp, err = qmp.New(ctx, ourQMP); err != nil {
		_ = g.Kill() // as above
		<-g.exited
		g.port.close()
		text, _ := os.ReadFile(complaints) // absent or empty when QEMU said nothing
		return nil, fmt.Errorf("%s does not answer: %w: %s", o.Program, err, bytes.TrimSpace(text))
	}
	return g, nil
}

// watch starts the goroutine that clears up after the machine and calls forget then.
func (g *machine) watch(forget func()) {
	go func() {
		<-g.exited
		g.port.drain()
		_ = g.qmp.Close() // QEMU has closed its end
		forget()
		g.gone()
	}()
}

// pair makes a socket pair, and its other end for a program.
func pair(name string) (net.Conn, *os.File, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	here, there := os.NewFile(uintptr(ends[0]), name), os.NewFile(uintptr(ends[1]), name)
	connection, err := net.FileConn(here)
	if err = errors.Join(err, here.Close()); err != nil { // the connection has its own copy
		return nil, nil, errors.Join(fmt.Errorf("socket pair: %w", err), there.Close())
	}
	return connection, there, nil
}

// launch starts the process and the goroutine that waits for its end. The goroutine keeps its thread: the kernel
// sends the signal of Pdeathsig when the thread that started the process ends, not when the program does.
func (g *machine) launch(program string, arguments []string, inherited []*os.File, complaints string) error {
	output, err := os.Create(complaints)
	if err != nil {
		return err
	}
	g.command = exec.Command(program, arguments...)
	g.command.Stdout, g.command.Stderr, g.command.ExtraFiles = output, output, inherited
	// Its own group: an interrupt from the terminal is for the orchestrator, which then ends its delegates.
	g.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := g.command.Start()
		_ = output.Close() // the process has its own
		started <- err
		if err != nil {
			return
		}
		_ = g.command.Wait() // how it ended stands in vm-data/understudy/out/cause, on the console and in qemu.log
		close(g.exited)
	}()
	if err := <-started; errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("the qemu world needs Debian's package qemu-system-x86: hack/deps e2e installs it: %w", err)
	} else if err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	return nil
}

func (g *machine) Done() <-chan struct{} { return g.life.Done() }

// Pause stops the machine's processors; what its disks have been told is done before it returns.
func (g *machine) Pause() error { return g.qmp.Execute(g.life, "stop", nil, nil) }

// Unpause lets a paused machine go on.
func (g *machine) Unpause() error { return g.qmp.Execute(g.life, "cont", nil, nil) }

// Interrupt gives the processors a non-maskable interrupt: a kernel with unknown_nmi_panic on its command line panics.
func (g *machine) Interrupt(ctx context.Context) error {
	return g.qmp.Execute(ctx, "inject-nmi", nil, nil)
}

// Shutdown asks the guest to power off.
func (g *machine) Shutdown(ctx context.Context) error {
	acknowledged := g.requestShutdown()
	select {
	case <-acknowledged:
		return nil
	case <-g.life.Done():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Kill ends the process.
func (g *machine) Kill() error {
	if err := g.command.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}
