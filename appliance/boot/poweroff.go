package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// powerOffSignal is how /sbin/poweroff tells PID 1.
const powerOffSignal = syscall.SIGPWR

// PowerOffWait is how long /sbin/poweroff waits for PID 1 to end the machine: longer than the grace that PID 1 gives its work.
const PowerOffWait = 40 * time.Second

// IsPowerOffCommand tells whether a program was called (argv[0]) as the kernel calls /sbin/poweroff when the machine shall end: for
// xl shutdown and VM.clean_shutdown under Xen (xapi-facts §7.7), and for a thermal or ACPI event.
func IsPowerOffCommand(name string) bool {
	switch filepath.Base(name) {
	case "poweroff", "halt", "reboot", "shutdown":
		return true // a delegate keeps no state: there is nothing to start again for
	}
	return false
}

// PowerOffCommand is what /sbin/poweroff does: it asks PID 1 for an ordered end, and ends the machine itself when PID 1 has not done so
// within wait. It refuses to touch a machine whose PID 1 is another program. It returns only with an error.
func PowerOffCommand(s System, wait time.Duration) error {
	first, err := os.Stat(s.path("/proc/1/exe"))
	if err != nil {
		return fmt.Errorf("boot: PID 1: %w", err)
	}
	self, err := os.Stat(s.path("/proc/self/exe"))
	if err != nil {
		return fmt.Errorf("boot: this program: %w", err)
	}
	if !os.SameFile(first, self) {
		return errors.New("boot: PID 1 of this machine is not a delegate: nothing is powered off")
	}
	if err := s.Kill(1, powerOffSignal); err == nil {
		time.Sleep(wait)
	}
	s.Sync()
	if err := s.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		return fmt.Errorf("boot: power off: %w", err)
	}
	return errors.New("boot: the kernel took the order to power off and did not")
}
