package state

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// Owner names a process so that another one can tell, later, whether it still lives: process ids are used again, so the
// time of the start counts too.
type Owner struct {
	Host  string
	PID   int
	Start string // the kernel's boot id and the process's start in clock ticks since that boot (proc(5), stat field 22)
}

// CurrentOwner names this process.
func CurrentOwner() (Owner, error) {
	host, err := os.Hostname()
	if err != nil {
		return Owner{}, fmt.Errorf("naming this process: %w", err)
	}
	pid := os.Getpid()
	start, alive, err := processStart(pid)
	if err != nil {
		return Owner{}, fmt.Errorf("naming this process: %w", err)
	}
	if !alive {
		return Owner{}, fmt.Errorf("naming this process: /proc does not list process %d", pid)
	}
	return Owner{Host: host, PID: pid, Start: start}, nil
}

// String returns host:pid:start, the inverse of ParseOwner.
func (o Owner) String() string { return fmt.Sprintf("%s:%d:%s", o.Host, o.PID, o.Start) }

// ParseOwner reads what String wrote.
func ParseOwner(s string) (Owner, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 || parts[0] == "" || parts[2] == "" {
		return Owner{}, fmt.Errorf("owner %q: want host:pid:start", s)
	}
	pid, err := strconv.Atoi(parts[1])
	if err != nil || pid <= 0 {
		return Owner{}, fmt.Errorf("owner %q: %q is no process id", s, parts[1])
	}
	return Owner{Host: parts[0], PID: pid, Start: parts[2]}, nil
}

// Alive reports whether the process still runs. Of a process on another host nothing can be said: ErrForeignHost.
func (o Owner) Alive() (bool, error) {
	host, err := os.Hostname()
	if err != nil {
		return false, fmt.Errorf("looking for process %s: %w", o, err)
	}
	if host != o.Host {
		return false, fmt.Errorf("looking for process %s from %s: %w", o, host, ErrForeignHost)
	}
	start, alive, err := processStart(o.PID)
	if err != nil {
		return false, fmt.Errorf("looking for process %s: %w", o, err)
	}
	return alive && start == o.Start, nil
}

// Dead reports whether it is certain that the process has ended: it was one of this host since its last boot, and is gone. Of another
// host nothing can be said, nor of one by the same name, or of this one before it booted.
func (o Owner) Dead() bool {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || !strings.HasPrefix(o.Start, string(bytes.TrimSpace(boot))+"/") {
		return false
	}
	alive, err := o.Alive()
	return err == nil && !alive
}

// processStart returns Owner.Start of a process, and false when there is none with this id or only its zombie.
func processStart(pid int) (start string, alive bool, err error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", false, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	} else if err != nil {
		return "", false, err
	}
	// Field 2 is the command in brackets and may hold anything, brackets and blanks included: count from its end.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const stateField, startField = 0, 22 - 3 // field 3 is the first after the command
	if len(fields) <= startField {
		return "", false, fmt.Errorf("/proc/%d/stat has %d fields after the command", pid, len(fields))
	}
	if state := fields[stateField][0]; state == 'Z' || state == 'X' {
		return "", false, nil
	}
	return string(bytes.TrimSpace(boot)) + "/" + string(fields[startField]), true, nil
}
