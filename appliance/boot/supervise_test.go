package boot_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/appliance/boot"
)

// publications are the causes that PID 1 told the pool.
type publications struct {
	mu     sync.Mutex
	causes []string
}

func (p *publications) publish(_ context.Context, _ *boot.Machine, cause string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.causes = append(p.causes, cause)
	return nil
}

// supervise has a machine run with this worker, sees to it while it works, and returns the last line and what PID 1 published.
func (w *world) supervise(o boot.Options, worker string, meanwhile func()) (last string, published []string) {
	w.t.Helper()
	w.employ(worker)
	var pool publications
	if o.Publish == nil {
		o.Publish = pool.publish
	}
	m := w.boot(o)
	done := make(chan error)
	go func() { done <- m.Run() }()
	if meanwhile != nil {
		meanwhile()
	}
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
	if left := children(); left != "" {
		w.t.Errorf("processes are left: %s", left)
	}
	return strings.TrimPrefix(w.awaitLine("understudy: power off: "), "understudy: power off: "), pool.causes
}

// children lists this process's.
func children() string {
	var found []string
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, file := range tasks {
		content, _ := os.ReadFile(file) // the thread may end
		found = append(found, strings.Fields(string(content))...)
	}
	return strings.Join(found, " ")
}

// signal has the test's process, a machine's PID 1, get a signal once its worker works.
func (w *world) signal(s syscall.Signal) func() {
	return func() {
		w.awaitLine("at work")
		if err := syscall.Kill(os.Getpid(), s); err != nil {
			w.t.Error(err)
		}
	}
}

// A worker that ends in order has told the pool itself.
func TestOrderedEnd(t *testing.T) {
	for name, test := range map[string]struct {
		worker string
		signal syscall.Signal
		want   string
	}{
		"well":       {"done", 0, "the work is done"},
		"badly":      {"fails", 0, "no address"},
		"by its own": {"off", 0, "the pool asked"},
		"by SIGTERM": {"obey", syscall.SIGTERM, "signal: terminated"},
		"by SIGPWR":  {"obey", syscall.SIGPWR, "the kernel asked for power off"},
		"by keys":    {"obey", syscall.SIGINT, "ctrl-alt-del was pressed"},
		"by SIGUSR2": {"obey", syscall.SIGUSR2, "signal: user defined signal 2"},
		// Messages of PID 1 that it never read do not hide its last.
		"deaf, but in order": {"deaf until end", syscall.SIGTERM, "found out by itself"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var meanwhile func()
			if test.signal != 0 {
				meanwhile = w.signal(test.signal)
			}
			last, published := w.supervise(w.options(), test.worker, meanwhile)
			if last != test.want || published != nil {
				t.Errorf("the cause is %q, want %q; PID 1 published %q", last, test.want, published)
			}
		})
	}
}

// The cause of a worker's death is published by PID 1, and is the console's last line.
func TestDeath(t *testing.T) {
	for name, test := range map[string]struct{ worker, want, shown string }{
		"panic of a goroutine": {"panic", "defect: panic: torn", "boot_test.init"},
		"fatal error":          {"fatal", "defect: fatal error: sync: unlock of unlocked mutex", "boot_test.init"},
		"exit":                 {"exit", "defect: the delegate's worker ended with exit code 7", ""},
		"SIGKILL":              {"killed", "the delegate's worker was ended by signal: killed", ""},
		"out of memory":        {"eaten", "memory exhausted: the kernel killed the delegate's worker", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			last, published := w.supervise(w.options(), test.worker, func() {
				if test.shown != "" {
					w.awaitLine(test.shown)
				}
			})
			if last != test.want || !slices.Equal(published, []string{test.want}) {
				t.Errorf("the cause is %q, published %q, want %q", last, published, test.want)
			}
		})
	}
}

// An end that was asked for and does not come is forced.
func TestHang(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	o.Grace = 100 * time.Millisecond
	last, published := w.supervise(o, "hang", w.signal(syscall.SIGTERM))
	if want := "signal: terminated; the delegate did not end within 100ms"; last != want || !slices.Equal(published, []string{want}) {
		t.Errorf("the cause is %q, published %q, want %q", last, published, want)
	}
}

// A worker that dies while it ends has both causes.
func TestDeathAtEnd(t *testing.T) {
	w := newWorld(t)
	last, _ := w.supervise(w.options(), "panic at the end", w.signal(syscall.SIGTERM))
	if want := "signal: terminated; defect: panic: torn"; last != want {
		t.Errorf("the cause is %q, want %q", last, want)
	}
}

// The worker's log is on the consoles as PID 1's is, and nothing it writes is in its way.
func TestOutput(t *testing.T) {
	w := newWorld(t)
	last, _ := w.supervise(w.options(), "verbose", func() {
		if line := w.awaitLine("disk plugged"); !strings.HasPrefix(line, "understudy: +") || !strings.HasSuffix(line, "s warn: disk plugged device=4") {
			t.Errorf("line is %q", line)
		}
		w.awaitLine("xxxx")
	})
	if last != "the work is done" {
		t.Errorf("the cause is %q", last)
	}
	if got := w.read("/proc/self/oom_score_adj"); got != "1000\n" {
		t.Errorf("the kernel takes the worker for want of memory with score %q", got)
	}
}

// A worker that cannot be started is told as one that died.
func TestStart(t *testing.T) {
	w := newWorld(t)
	t.Setenv("BOOT_TEST_TOO_LONG", strings.Repeat("x", 1<<20)) // more than the kernel takes
	last, published := w.supervise(w.options(), "done", nil)
	if !strings.Contains(last, "start the worker") || !slices.Equal(published, []string{last}) {
		t.Errorf("the cause is %q, published %q", last, published)
	}
}

func TestMemoryGuard(t *testing.T) {
	w := newWorld(t)
	w.write("/proc/meminfo", meminfo(217, 16)) // the floor itself is enough
	last, _ := w.supervise(w.options(), "obey", func() {
		_, pid, _ := strings.Cut(w.awaitLine("worker started"), "pid=")
		w.write("/proc/"+pid+"/status", "VmHWM:  1 kB\nVmRSS:\t 102400 kB\n")
		w.awaitLine("at work")
		select {
		case line := <-w.console:
			t.Errorf("ends too early: %q", line)
		case <-time.After(50 * time.Millisecond):
		}
		w.replace("/proc/meminfo", meminfo(217, 15))
	})
	if want := "memory exhausted: 15 MiB of 217 are available, less than 16; the delegate holds 100 MiB"; last != want {
		t.Errorf("the cause is %q, want %q", last, want)
	}
}

// Before it is ended the worker is asked to give back what it does not use.
func TestMemoryGivenBack(t *testing.T) {
	w := newWorld(t)
	w.write("/proc/meminfo", meminfo(217, 15))
	o := w.options()
	o.MemoryPoll = 2 * time.Second // the worker has so long
	last, _ := w.supervise(o, "trim", nil)
	if last != "collected" {
		t.Errorf("the cause is %q", last)
	}
}

// The publication may fail in any way; the machine ends all the same, and says so.
func TestPublicationFails(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	for name, test := range map[string]struct {
		publish func(ctx context.Context, m *boot.Machine, cause string) error
		shown   string
	}{
		"error": {func(context.Context, *boot.Machine, string) error { return errors.New("no XenStore") }, "warn: no XenStore"},
		"panic": {func(context.Context, *boot.Machine, string) error { panic("twice torn") }, "warn: defect: panic: twice torn"},
		"time": {func(ctx context.Context, _ *boot.Machine, _ string) error {
			<-ctx.Done()
			return fmt.Errorf("port: %w", ctx.Err())
		}, "warn: port: context deadline exceeded"},
		"hang": {func(context.Context, *boot.Machine, string) error { <-release; return nil }, "telling the pool hangs"},
		"the guest powers off": {func(_ context.Context, m *boot.Machine, cause string) error {
			return m.PowerOff(cause + " (the pool was not told)")
		}, "exit code 7 (the pool was not told)"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			o := w.options()
			o.Publish, o.PublishLimit = test.publish, 50*time.Millisecond
			m := w.boot(o)
			w.employ("exit")
			if err := m.Run(); err != nil {
				t.Error(err)
			}
			w.awaitLine(test.shown)
			if len(w.asked("power off")) != 1 {
				t.Errorf("asked for %q", w.asked("power off"))
			}
		})
	}
}

// A power-off that the kernel refuses is an error, and PID 1 must not take it for done.
func TestPowerOffFails(t *testing.T) {
	w := newWorld(t)
	w.fails["power off"] = unix.EPERM
	w.employ("done")
	if err := w.boot(w.options()).Run(); !errors.Is(err, unix.EPERM) {
		t.Errorf("Run is %v, want EPERM", err)
	}
}
