package boot_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/appliance/boot"
)

func TestIsPowerOffCommand(t *testing.T) {
	for name, want := range map[string]bool{
		"/sbin/poweroff": true, "poweroff": true, "/sbin/reboot": true, "halt": true, "/init": false, "abd": false, "/sbin/poweroff/abd": false, "": false,
	} {
		if got := boot.IsPowerOffCommand(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

// programs sets which programs PID 1 and this process run.
func (w *world) programs(first, self string) {
	w.t.Helper()
	for name, target := range map[string]string{"1": first, "self": self} {
		w.write(target, "program")
		directory := filepath.Join(w.root, "proc", name)
		err := errors.Join(os.MkdirAll(directory, 0o755), os.Symlink(filepath.Join(w.root, target), filepath.Join(directory, "exe")))
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestPowerOffCommand(t *testing.T) {
	for name, test := range map[string]struct {
		fails map[string]error
		want  []string
		error string
		waits bool
	}{
		"PID 1 hangs":      {nil, []string{"kill 1 SIGPWR", "sync", "power off"}, "did not", true},
		"no signal":        {map[string]error{"kill": unix.EPERM}, []string{"kill 1 SIGPWR", "sync", "power off"}, "did not", false},
		"it cannot at all": {map[string]error{"kill": unix.EPERM, "power off": unix.EPERM}, []string{"kill 1 SIGPWR", "sync", "power off"}, "not permitted", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.programs("/init", "/init")
			w.fails = test.fails
			const wait = 100 * time.Millisecond
			start := time.Now()
			err := boot.PowerOffCommand(w.system, wait)
			if err == nil || !strings.Contains(err.Error(), test.error) {
				t.Errorf("error is %v, want %q", err, test.error)
			}
			if waited := time.Since(start) >= wait; waited != test.waits {
				t.Errorf("waited for PID 1: %v, want %v", waited, test.waits)
			}
			if !slices.Equal(w.calls, test.want) {
				t.Errorf("asked for %q, want %q", w.calls, test.want)
			}
		})
	}
}

// A machine that is not a delegate's own is left alone.
func TestPowerOffElsewhere(t *testing.T) {
	w := newWorld(t)
	if err := boot.PowerOffCommand(w.system, 0); err == nil {
		t.Error("went on without knowing PID 1")
	}
	w.programs("/sbin/init", "/usr/bin/abd")
	if err := boot.PowerOffCommand(w.system, 0); err == nil || !strings.Contains(err.Error(), "not a delegate") {
		t.Errorf("error is %v", err)
	}
	if w.calls != nil {
		t.Errorf("asked for %q", w.calls)
	}
}
