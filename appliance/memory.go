package appliance

import (
	"bufio"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// memoryLimit is what the Go runtime may hold. The delegate's 96 MiB (design §4) are measured as VmHWM, which also counts the
// program's own pages.
const memoryLimit = 80 << 20

// LimitMemory tunes the collector of this process for a delegate: buffers live long and are pooled, so it runs seldom until the
// limit comes near, and then as often as needed. It is for a main program: the setting is the process's.
func LimitMemory() {
	debug.SetMemoryLimit(memoryLimit)
	debug.SetGCPercent(100)
}

// currentMemoryLimit is 0 when there is none.
func currentMemoryLimit() int64 {
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		return limit
	}
	return 0
}

// peakRSS is VmHWM of this process in bytes (proc_pid_status(5)); 0 when the kernel does not tell.
func peakRSS() int64 {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64) // the kernel's own format
			return kib << 10
		}
	}
	return 0
}
