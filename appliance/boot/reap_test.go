package boot_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/appliance/boot"
)

// processKey names what a process of the test program is to be, see TestMain.
const processKey = "BOOT_TEST_PROCESS"

// orphansKey lists the orphans' ids for the worker.
const orphansKey = "BOOT_TEST_ORPHANS"

func process(what string) *exec.Cmd {
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), processKey+"="+what)
	return command
}

// Orphans are buried while the worker works, and their exit status is not taken for the worker's. The test needs a process of its own:
// reaping takes every child there is.
func TestReaper(t *testing.T) {
	command := process("reaper")
	command.Env = append(command.Env, rootKey+"="+newWorld(t).root, workerKey+"=wait for orphans")
	if output, err := command.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, output)
	}
}

// reaperProcess is a process to which orphans fall as they fall to PID 1. Three do; its worker looks whether they stay
// zombies.
func reaperProcess() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a reaper: %w", err)
	}
	output, err := process("parent").Output()
	if err != nil {
		return err
	}
	pids := strings.Fields(string(output))
	if len(pids) != 3 {
		return fmt.Errorf("the orphans are %q", pids)
	}
	cause := ""
	machine, err := boot.Init(boot.Options{System: boot.System{
		Root:   os.Getenv(rootKey),
		Mount:  func(string, string, string, uintptr, string) error { return nil },
		Sync:   func() {},
		Reboot: func(int) error { return nil },
	}, Publish: func(_ context.Context, _ *boot.Machine, c string) error { cause = c; return nil }})
	if err != nil {
		return err
	}
	if err := os.Setenv(orphansKey, string(output)); err != nil {
		return err
	}
	if err := machine.Run(); err != nil {
		return err
	}
	if want := "defect: the delegate's worker ended with exit code 7"; cause != want {
		return fmt.Errorf("the cause is %q, want %q", cause, want)
	}
	return nil
}

// parentProcess leaves three orphans, one of which has not ended when a machine comes to run, and prints their ids.
func parentProcess() error {
	for _, life := range []string{"0s", "0s", "500ms"} {
		command := process("orphan")
		command.Env = append(command.Env, "BOOT_TEST_LIFE="+life)
		if err := command.Start(); err != nil {
			return err
		}
		fmt.Println(command.Process.Pid)
	}
	return nil
}

func orphanProcess() error {
	life, err := time.ParseDuration(os.Getenv("BOOT_TEST_LIFE"))
	time.Sleep(life)
	return err
}
