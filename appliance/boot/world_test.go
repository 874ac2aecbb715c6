package boot_test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/appliance/boot"
)

const within = 10 * time.Second

func TestMain(m *testing.M) {
	process, ok := map[string]func() error{
		"reaper": reaperProcess, "parent": parentProcess, "orphan": orphanProcess, "stranger": strangerProcess,
	}[os.Getenv(processKey)]
	if boot.IsWorkerCommand(os.Args[0]) {
		process, ok = workerProcess, true
	}
	if !ok {
		goleak.VerifyTestMain(m)
	}
	if err := process(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// world is a machine below a temporary directory, and what was asked of its kernel.
type world struct {
	t      *testing.T
	root   string
	system boot.System

	mu    sync.Mutex
	calls []string
	fails map[string]error // by the call's first words

	console chan string // lines of the console; closed with it
}

// fakeRelease is the kernel's release in a world.
const fakeRelease = "6.1.0-test"

func newWorld(t *testing.T) *world {
	w := &world{t: t, root: t.TempDir(), fails: make(map[string]error)}
	w.system = boot.System{
		Root: w.root,
		Mount: func(source, target, filesystem string, _ uintptr, data string) error {
			return w.called(strings.TrimSpace("mount " + filesystem + " " + strings.TrimPrefix(target, w.root) + " " + data))
		},
		Load: func(f *os.File, parameters string) error {
			return w.called(strings.TrimSpace("load " + filepath.Base(f.Name()) + " " + parameters))
		},
		Kill: func(pid int, s unix.Signal) error {
			if pid != 1 {
				return unix.Kill(pid, s)
			}
			return w.called("kill 1 " + unix.SignalName(s))
		},
		Sync: func() { _ = w.called("sync") },
		Reboot: func(command int) error {
			if command == unix.LINUX_REBOOT_CMD_CAD_OFF {
				return w.called("cad off")
			}
			return w.called("power off")
		},
	}
	w.write("/proc/sys/kernel/osrelease", fakeRelease+"\n")
	w.write("/proc/cmdline", "quiet\n")
	w.write("/proc/meminfo", meminfo(217, 185))
	w.write("/proc/vmstat", "pgfault 9\noom_kill 3\n")
	w.write("/proc/self/oom_score_adj", "0\n")
	for _, key := range []string{"kernel/panic", "kernel/panic_on_oops", "net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem"} {
		w.write("/proc/sys/"+key, "0\n")
	}
	w.write("/sys/class/tty/console/active", "tty0 hvc0\n")
	w.write("/dev/tty0", "")
	w.openConsole("/dev/hvc0")
	return w
}

func (w *world) called(call string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, call)
	for prefix, err := range w.fails {
		if strings.HasPrefix(call, prefix) {
			return err
		}
	}
	return nil
}

// asked returns the calls that begin so.
func (w *world) asked(prefix string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []string
	for _, c := range w.calls {
		if strings.HasPrefix(c, prefix) {
			found = append(found, c)
		}
	}
	return found
}

func meminfo(total, available int) string {
	return fmt.Sprintf("Memtotal: 1 kB\nMemTotal:  \t%d kB\nMemFree:   9 kB\nMemAvailable:   %d kB\n", total<<10, available<<10)
}

func (w *world) write(name, content string) {
	w.t.Helper()
	path := filepath.Join(w.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// replace swaps a file in one step: readers see the old or the new one.
func (w *world) replace(name, content string) {
	w.t.Helper()
	w.write(name+".new", content)
	path := filepath.Join(w.root, name)
	if err := os.Rename(path+".new", path); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read(name string) string {
	w.t.Helper()
	content, err := os.ReadFile(filepath.Join(w.root, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(content)
}

// fifo makes a console that holds what nobody reads yet, as a terminal does, and returns its reading end.
func (w *world) fifo(name string) *os.File {
	w.t.Helper()
	path := filepath.Join(w.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		w.t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = f.Close() })
	return f
}

func (w *world) openConsole(name string) {
	f := w.fifo(name)
	w.console = make(chan string, 10_000)
	// A FIFO without a writer reads as its end: this one stays until the machine has opened its own.
	hold, err := os.OpenFile(filepath.Join(w.root, name), os.O_WRONLY, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(w.console)
		for lines := bufio.NewScanner(f); lines.Scan(); {
			w.console <- lines.Text()
		}
	})
	w.t.Cleanup(func() {
		_ = hold.Close()
		_ = f.Close()
		reading.Wait()
	})
}

// awaitLine returns the next line of the console with this in it.
func (w *world) awaitLine(part string) string {
	w.t.Helper()
	for timeout := time.After(within); ; {
		select {
		case line := <-w.console:
			if strings.Contains(line, part) {
				return line
			}
		case <-timeout:
			w.t.Fatalf("no line with %q on the console", part)
		}
	}
}

// options have times that a test can wait for.
func (w *world) options() boot.Options {
	return boot.Options{
		Version: "1.2.3", System: w.system, Kick: 10 * time.Millisecond,
		Stall: within, MemoryPoll: 5 * time.Millisecond, Grace: within,
	}
}

func (w *world) boot(o boot.Options) *boot.Machine {
	w.t.Helper()
	m, err := boot.Init(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = m.PowerOff("the test is over") })
	return m
}
