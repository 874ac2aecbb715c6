package boot

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one file system that a machine needs.
type mount struct {
	target, filesystem string
	flags              uintptr
	data               string
}

// basicMounts are those without which nothing can be seen or said. proc comes first: it tells what is mounted already.
var basicMounts = []mount{
	{"/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"/dev", "devtmpfs", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
}

// scratchMounts are bounded: they take the machine's memory.
var scratchMounts = []mount{
	{"/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=0755,size=4m"},
	{"/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=1777,size=4m"},
}

// mountAll mounts what is not there yet. It tries all and returns all errors.
func (s System) mountAll(table ...mount) error {
	var failed []error
	for _, m := range table {
		if s.isMounted(m.target) {
			continue
		}
		err := os.MkdirAll(s.path(m.target), 0o755)
		if err == nil {
			err = s.Mount(m.filesystem, s.path(m.target), m.filesystem, m.flags, m.data)
		}
		// EBUSY: the same is there already; proc cannot be asked before it is mounted.
		if err != nil && !errors.Is(err, unix.EBUSY) {
			failed = append(failed, fmt.Errorf("mount %s on %s: %w", m.filesystem, m.target, err))
		}
	}
	return errors.Join(failed...)
}

// isMounted looks into /proc/self/mounts: "source target filesystem options 0 0" a line.
func (s System) isMounted(target string) bool {
	mounts, _ := s.text("/proc/self/mounts") // not there before /proc is
	for line := range strings.Lines(mounts) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == s.path(target) {
			return true
		}
	}
	return false
}

// sysctls make the kernel end the machine where it cannot go on: a delegate moves other machines' disks, and a kernel that has
// lost its way must not go on with that. For want of memory it does not panic but kills the worker, and PID 1 says so. And they
// make room for what a long line holds.
var sysctls = []struct{ key, value string }{
	{"kernel/panic", "5"}, // seconds until the restart, which pools and QEMU's -no-reboot turn into an end
	{"kernel/panic_on_oops", "1"},
	// Least, first and largest size of a socket's buffers in bytes (tcp(7)). The kernel grows them as a line needs it; by default
	// they end below the 6 MiB of content that 1 Gbit/s holds at 50 ms.
	{"net/ipv4/tcp_rmem", "4096 131072 16777216"},
	{"net/ipv4/tcp_wmem", "4096 16384 16777216"},
}

func (s System) setSysctls() error {
	var failed []error
	for _, c := range sysctls {
		if err := os.WriteFile(s.path("/proc/sys/"+c.key), []byte(c.value+"\n"), 0o644); err != nil {
			failed = append(failed, fmt.Errorf("set %s to %s: %w", c.key, c.value, err))
		}
	}
	return errors.Join(failed...)
}
