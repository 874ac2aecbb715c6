package boot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/appliance/boot"
)

// What PID 1's worker, which is this program, has in its environment: the work to do, and the machine's root.
const (
	workerKey = "BOOT_TEST_WORKER"
	rootKey   = "BOOT_TEST_ROOT"
)

// employ chooses what the next worker is to do.
func (w *world) employ(work string) {
	w.t.Helper()
	w.t.Setenv(workerKey, work)
	w.t.Setenv(rootKey, w.root)
	w.t.Setenv("GORACE", "atexit_sleep_ms=0") // the race detector's second before the exit
}

// workerProcess is the worker of a test.
func workerProcess() error {
	worker, err := boot.OpenWorker(boot.System{Root: os.Getenv(rootKey), Parent: func() int { return 1 }})
	if err != nil {
		return err
	}
	work, ok := works[os.Getenv(workerKey)]
	if !ok {
		return fmt.Errorf("no work %q", os.Getenv(workerKey))
	}
	slog.New(worker.Console()).Info("at work")
	if os.Getenv(workerKey) == "deaf until end" {
		time.Sleep(300 * time.Millisecond) // in which the message to end comes; Run would read it
		return worker.PowerOff("found out by itself")
	}
	return worker.Run(func(ctx context.Context) error { return work(ctx, worker) })
}

// obey ends when it is told to.
func obey(ctx context.Context, _ *boot.Worker) error {
	<-ctx.Done()
	return ctx.Err()
}

var works = map[string]func(context.Context, *boot.Worker) error{
	"obey":           obey,
	"deaf until end": obey,
	"done":           func(context.Context, *boot.Worker) error { return nil },
	"fails":          func(context.Context, *boot.Worker) error { return errors.New("no address") },
	"off":            func(_ context.Context, w *boot.Worker) error { return w.PowerOff("the pool asked") },
	"exit":           func(context.Context, *boot.Worker) error { os.Exit(7); return nil },
	"killed":         func(context.Context, *boot.Worker) error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) },
	"panic": func(ctx context.Context, w *boot.Worker) error {
		go func() { panic("torn") }() // which nobody can recover elsewhere
		return obey(ctx, w)
	},
	"fatal": func(context.Context, *boot.Worker) error {
		var mu sync.Mutex
		mu.Unlock() // which nobody can recover at all
		return nil
	},
	"eaten": func(context.Context, *boot.Worker) error {
		return errors.Join(
			os.WriteFile(filepath.Join(os.Getenv(rootKey), "proc/vmstat"), []byte("pgfault 12\noom_kill 4\n"), 0o644),
			syscall.Kill(os.Getpid(), syscall.SIGKILL))
	},
	"hang": func(context.Context, *boot.Worker) error { select {} },
	"panic at the end": func(ctx context.Context, _ *boot.Worker) error {
		<-ctx.Done()
		panic("torn")
	},
	"verbose": func(_ context.Context, w *boot.Worker) error {
		slog.New(w.Console()).Warn("disk plugged", "device", 4)
		_, err := os.Stdout.Write(bytes.Repeat([]byte("x"), 1<<20)) // far more than a pipe holds, and no end of the line
		return err
	},
	"trim": func(context.Context, *boot.Worker) error {
		for stats := (runtime.MemStats{}); stats.NumForcedGC == 0; time.Sleep(5 * time.Millisecond) {
			runtime.ReadMemStats(&stats)
		}
		return errors.New("collected")
	},
	"beat for 3s": func(_ context.Context, w *boot.Worker) error {
		for range 60 {
			w.Beat()
			time.Sleep(50 * time.Millisecond)
		}
		return nil
	},
	"look for kicks at the end": func(ctx context.Context, _ *boot.Worker) error {
		<-ctx.Done()
		file := filepath.Join(os.Getenv(rootKey), "dev/watchdog0")
		before, err := os.ReadFile(file)
		time.Sleep(50 * time.Millisecond)
		after, err2 := os.ReadFile(file)
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		if len(before) == 0 || !bytes.Equal(before, after) {
			return fmt.Errorf("the watchdog took %q, then %q", before, after)
		}
		return ctx.Err()
	},
	"wait for orphans": func(context.Context, *boot.Worker) error {
		pids := strings.Fields(os.Getenv(orphansKey))
		for deadline := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
			pids = slices.DeleteFunc(pids, func(pid string) bool {
				_, err := os.Stat("/proc/" + pid)
				return err != nil
			})
			if len(pids) == 0 {
				os.Exit(7)
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("zombies are left: %q", pids)
			}
		}
	},
}

// The worker's command is refused to all but PID 1.
func TestOpenWorkerElsewhere(t *testing.T) {
	if !boot.IsWorkerCommand("/sbin/abd-worker") || boot.IsWorkerCommand("/init") || boot.IsWorkerCommand("/abd-worker/abd") {
		t.Error("IsWorkerCommand is wrong")
	}
	if _, err := boot.OpenWorker(boot.System{Parent: unix.Getppid}); !errors.Is(err, boot.ErrNoWorker) {
		t.Errorf("with an ordinary parent: %v", err)
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	// Both ends are this process's, which is the parent of those it starts, but not of those that its children start.
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(ends[0]), "socket")
	defer socket.Close()
	defer os.NewFile(uintptr(ends[1]), "its other end").Close()
	for name, test := range map[string]struct {
		files []*os.File
		by    string
		want  string
	}{
		"nothing":            {nil, "", "is no channel"},
		"a file":             {[]*os.File{file}, "", "is no channel"},
		"a stranger's child": {[]*os.File{socket}, "stranger", "is from process"},
	} {
		t.Run(name, func(t *testing.T) {
			command := exec.Command(os.Args[0])
			command.Args = []string{"abd-worker"}
			if test.by != "" {
				command = process(test.by)
			}
			command.ExtraFiles = test.files
			if output, err := command.CombinedOutput(); err == nil || !strings.Contains(string(output), test.want) || !strings.Contains(string(output), boot.ErrNoWorker.Error()) {
				t.Errorf("%v: %s, want %q", err, output, test.want)
			}
		})
	}
}

// strangerProcess starts a worker with a channel that it did not make.
func strangerProcess() error {
	command := exec.Command(os.Args[0])
	command.Args = []string{"abd-worker"}
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	command.ExtraFiles = []*os.File{os.NewFile(3, "channel")}
	return command.Run()
}
