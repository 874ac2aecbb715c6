package worlds

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// pollInterval is how often dom0's side looks at the folder and at a process's open files.
const pollInterval = 20 * time.Millisecond

// Process is the world whose machines are processes of this computer. It keeps no state of its own: each machine ends
// by itself, through its pool, or with this process.
type Process struct {
	program, dir string
}

var _ xapisim.World = (*Process)(nil)

// NewProcess starts machines as `program --guest <dir>/<VM uuid>.<domain id>`. The folders stay, for the console logs in
// them.
func NewProcess(program, dir string) *Process { return &Process{program: program, dir: dir} }

// Start writes the machine's folder and starts its process.
func (w *Process) Start(ctx context.Context, m xapisim.Machine) (xapisim.Guest, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Join(w.dir, m.UUID+"."+strconv.FormatInt(m.DomainID, 10)))
	if err != nil {
		return nil, fmt.Errorf("guest of VM %s: %w", m.Name, err)
	}
	g := &process{
		dir: dir, disks: map[string]xapisim.Disk{},
		changed: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if err := g.prepare(m); err != nil {
		return nil, fmt.Errorf("guest of VM %s: %w", m.Name, err)
	}
	if err := g.run(w.program); err != nil {
		return nil, fmt.Errorf("guest of VM %s: start %s: %w", m.Name, w.program, err)
	}
	return g, nil
}

// process is a machine of the process world.
type process struct {
	dir     string
	command *exec.Cmd
	changed chan struct{}
	done    chan struct{}

	mu    sync.Mutex
	disks map[string]xapisim.Disk // plugged, by user device; an unplug that timed out leaves its disk here
}

func (g *process) prepare(m xapisim.Machine) error {
	if err := os.RemoveAll(g.dir); err != nil {
		return err
	}
	for key, value := range map[string]string{"vm": "/vm/" + m.UUID, "unique-domain-id": m.UniqueDomainID} {
		if err := g.write(key, value); err != nil {
			return err
		}
	}
	if err := g.SetData(m.Data); err != nil {
		return err
	}
	for _, disk := range m.Disks {
		if err := g.Plug(context.Background(), disk); err != nil {
			return err
		}
	}
	return nil
}

// run starts the process and the goroutine that waits for its end. The goroutine keeps its thread: the kernel sends the
// signal of Pdeathsig when the thread that started the process ends, not when the program does.
func (g *process) run(program string) error {
	console, err := os.Create(filepath.Join(g.dir, "console.log"))
	if err != nil {
		return err
	}
	g.command = exec.Command(program, "--guest", g.dir)
	g.command.Stdout, g.command.Stderr = console, console
	// Its own group: an interrupt from the terminal is for the orchestrator, which then ends its delegates.
	g.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := g.command.Start()
		_ = console.Close() // the process has its own
		started <- err
		if err != nil {
			return
		}
		polled := make(chan struct{})
		stop := make(chan struct{})
		go g.poll(stop, polled)
		_ = g.command.Wait() // how it ended stands in vm-data/understudy/out/cause and in the console log
		close(stop)
		<-polled
		close(g.done)
	}()
	return <-started
}

// poll signals changes of the tree until stop is closed.
func (g *process) poll(stop <-chan struct{}, polled chan<- struct{}) {
	defer close(polled)
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	known := folders{}
	for {
		if known.changed(g.dir) {
			select {
			case g.changed <- struct{}{}:
			default:
			}
		}
		select {
		case <-ticker.C:
		case <-stop:
			return
		}
	}
}

func (g *process) Changed() <-chan struct{} { return g.changed }
func (g *process) Done() <-chan struct{}    { return g.done }

func (g *process) Plug(_ context.Context, d xapisim.Disk) error {
	if _, err := strconv.ParseUint(d.UserDevice, 10, 16); err != nil {
		return fmt.Errorf("plug %q: %w", d.UserDevice, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, taken := g.disks[d.UserDevice]; taken {
		return fmt.Errorf("plug %s: the device is still there", d.UserDevice)
	}
	mode := "w"
	if d.ReadOnly {
		mode = "r"
	}
	if err := g.write("device/vbd/"+d.UserDevice, d.Path+"\n"+mode); err != nil {
		return err
	}
	g.disks[d.UserDevice] = d
	return nil
}

// Unplug takes the device away and waits until the process holds the disk's file open no more.
func (g *process) Unplug(ctx context.Context, userDevice string) error {
	g.mu.Lock()
	disk, plugged := g.disks[userDevice]
	g.mu.Unlock()
	if !plugged {
		return fmt.Errorf("unplug %s: no such device", userDevice)
	}
	if err := os.Remove(filepath.Join(g.dir, "device/vbd", userDevice)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	closed := 0 // looks in a row: a guest may have read of the device just before it was taken away
	err := g.until(ctx, func() (bool, error) {
		open, err := holdsOpen(g.command.Process.Pid, disk.Path)
		if closed++; open {
			closed = 0
		}
		return closed >= 2, err
	})
	if err != nil {
		return fmt.Errorf("unplug %s: %w", userDevice, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.disks, userDevice)
	return nil
}

// until polls a condition; it is met when the process has ended.
func (g *process) until(ctx context.Context, met func() (bool, error)) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		if ok, err := met(); ok || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-g.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// holdsOpen tells whether a process has a file open, under whatever name.
func holdsOpen(pid int, path string) (bool, error) {
	file, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return false, nil // the process has ended
	} else if err != nil {
		return false, err
	}
	for _, entry := range entries {
		if info, err := os.Stat(filepath.Join(dir, entry.Name())); err == nil && os.SameFile(file, info) {
			return true, nil
		}
	}
	return false, nil
}

// pauseTimeout bounds how long a stopping process may take to finish the system calls that its threads are in.
const pauseTimeout = 10 * time.Second

// Pause stops the process and returns when all of its threads stand: the signal alone does not wait for them, and one of
// them may be in the middle of a write.
func (g *process) Pause() error {
	if err := g.command.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for deadline := time.Now().Add(pauseTimeout); ; time.Sleep(time.Millisecond) {
		if stand, err := allStopped(g.command.Process.Pid); stand || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("pause: a thread of process %d did not stop within %v", g.command.Process.Pid, pauseTimeout)
		}
	}
}

func allStopped(pid int) (bool, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false, err
	}
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		if err != nil {
			continue // the thread has ended
		}
		// The state follows the program's name, which stands in parentheses and may hold some itself.
		_, after, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
		if !strings.HasPrefix(after, "T") {
			return false, nil
		}
	}
	return true, nil
}

// Unpause lets a paused process go on.
func (g *process) Unpause() error { return g.command.Process.Signal(syscall.SIGCONT) }

func (g *process) Shutdown(ctx context.Context) error {
	if err := g.write("control/shutdown", "poweroff"); err != nil {
		return err
	}
	return g.until(ctx, func() (bool, error) {
		_, err := os.Stat(filepath.Join(g.dir, "control/shutdown"))
		return errors.Is(err, os.ErrNotExist), nil
	})
}

func (g *process) Kill() error {
	if err := g.command.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}
