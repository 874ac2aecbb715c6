package peers

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// counters are sums that the kernel keeps; a run's use is the difference of two.
type counters struct {
	cpu      time.Duration // of children that ended
	read     int64         // bytes read from storage by this process and children that ended (proc_pid_io(5))
	loopback int64         // bytes that the loopback device has sent, so each of them once
}

func readCounters() (c counters, err error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &usage); err != nil {
		return c, err
	}
	c.cpu = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	io, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return c, err
	}
	if c.read, err = field(io, "read_bytes:", 0); err != nil {
		return c, err
	}
	// Received bytes and seven more numbers come before the bytes sent.
	devices, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		return c, err
	}
	c.loopback, err = field(devices, "lo:", 8)
	return c, err
}

// field returns the number that stands n numbers behind a label at a line's beginning.
func field(text []byte, label string, n int) (int64, error) {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte(label)); ok {
			if words := strings.Fields(string(rest)); n < len(words) {
				return strconv.ParseInt(words[n], 10, 64)
			}
		}
	}
	return 0, fmt.Errorf("the kernel tells no %q", label)
}

// watch looks at the memory of the processes below this one until stop is called, which returns the largest peak of one in bytes.
func watch() (stop func() int64) {
	quit, result := make(chan struct{}), make(chan int64)
	go func() {
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		peak := int64(0)
		for {
			peak = max(peak, peakOfChildren())
			select {
			case <-ticker.C:
			case <-quit:
				result <- peak
				return
			}
		}
	}()
	return func() int64 { close(quit); return <-result }
}

// peakOfChildren is the largest VmHWM of a process below this one. It is not ru_maxrss, which a process inherits from its starter.
func peakOfChildren() (peak int64) {
	for pid := range descendants(os.Getpid()) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // it has ended
		}
		if kib, err := field(status, "VmHWM:", 0); err == nil {
			peak = max(peak, kib<<10)
		}
	}
	return peak
}

// descendants returns the processes below one.
func descendants(root int) map[int]bool {
	entries, _ := os.ReadDir("/proc") // always there
	parents := make(map[int]int)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if parent, ok := parentOf(pid); ok {
			parents[pid] = parent
		}
	}
	below := make(map[int]bool)
	for pid := range parents {
		for at, ok := parents[pid]; ok; at, ok = parents[at] {
			if at == root {
				below[pid] = true
				break
			}
		}
	}
	return below
}

// parentOf reads proc_pid_stat(5): the name in parentheses may hold anything.
func parentOf(pid int) (int, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	words := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(words) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(words[1])
	return parent, err == nil
}

// listens reports whether a port of 127.0.0.1 or of all addresses takes connections. It looks instead of dialling: a connection would
// be counted, and a server may serve but one.
func listens(port int) (bool, error) {
	f, err := os.Open("/proc/thread-self/net/tcp")
	if err != nil {
		return false, err
	}
	defer f.Close()
	const listen = "0A"
	for lines := bufio.NewScanner(f); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) > 3 && words[3] == listen && strings.HasSuffix(words[1], fmt.Sprintf(":%04X", port)) {
			return true, nil
		}
	}
	return false, nil
}

// ErrNotRoot says that the page cache cannot be emptied.
var ErrNotRoot = errors.New("the page cache was not dropped: that needs root")

// DropCaches writes out what waits in the page cache and empties it: buffered tools would read from memory, and pay for the writes of
// those before them.
func DropCaches() error {
	syscall.Sync()
	err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
	if errors.Is(err, os.ErrPermission) {
		return ErrNotRoot
	}
	return err
}
