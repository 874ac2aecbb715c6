package boot

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	// minMemory is what a machine must have in all for a delegate's 96 MiB (design §4), its program and the kernel's own needs;
	// the kernel's MemTotal is some 40 MiB less than what the VM was given.
	minMemory = 144 << 20
	// memoryFloor is what must stay available: below it there is soon not enough to say why the machine ends.
	memoryFloor = 16 << 20
)

// memory is a reading of /proc/meminfo, in bytes.
type memory struct{ total, available int64 }

func (s System) memory() (memory, error) {
	text, err := s.text("/proc/meminfo")
	if err != nil {
		return memory{}, err
	}
	total, err := kibibytes(text, "MemTotal:")
	if err != nil {
		return memory{}, fmt.Errorf("/proc/meminfo: %w", err)
	}
	available, err := kibibytes(text, "MemAvailable:")
	if err != nil {
		return memory{}, fmt.Errorf("/proc/meminfo: %w", err)
	}
	return memory{total, available}, nil
}

// kibibytes finds a line "label   n kB" and returns n in bytes.
func kibibytes(text, label string) (int64, error) {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, label); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil || n < 0 || n > 1<<50 {
				return 0, fmt.Errorf("line %.80q has no number of kB", line)
			}
			return n << 10, nil
		}
	}
	return 0, fmt.Errorf("no line %s", label)
}

// CheckMemory tells whether the machine has memory enough for a delegate. It is asked after Init, by who can publish the cause.
func (s System) CheckMemory() error {
	found, err := s.memory()
	if err != nil {
		return fmt.Errorf("boot: memory: %w", err)
	}
	if found.total < minMemory {
		return fmt.Errorf("boot: the machine has %d MiB of memory, less than the %d MiB a delegate needs: give its VM 256 MiB",
			found.total>>20, minMemory>>20)
	}
	return nil
}

// exhausted says why the machine cannot go on for want of memory; nil when it can. The worker is named by its pid.
func (s System) exhausted(worker int) error {
	found, err := s.memory()
	if err != nil {
		return fmt.Errorf("memory cannot be watched: %w", err)
	}
	if found.available >= memoryFloor {
		return nil
	}
	status, _ := s.text(fmt.Sprintf("/proc/%d/status", worker))
	resident, err := kibibytes(status, "VmRSS:")
	if err != nil {
		resident = 0 // one detail less in the message
	}
	return fmt.Errorf("memory exhausted: %d MiB of %d are available, less than %d; the delegate holds %d MiB",
		found.available>>20, found.total>>20, memoryFloor>>20, resident>>20)
}

// kills counts the processes that the kernel killed for want of memory since it started; 0 when it does not tell.
func (s System) kills() int64 {
	text, _ := s.text("/proc/vmstat")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64) // the kernel's own format
			return n
		}
	}
	return 0
}
