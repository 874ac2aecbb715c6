package transfer

import (
	"bytes"
	"io"
	"os"
	"strconv"
)

// idleCores returns how long the processors have been idle since the system's start, all together and in seconds: the fourth and fifth number
// of the first line of /proc/stat, in hundredths (proc_stat(5)). A delegate has its processors to itself, but on a loopback device both ends share them.
func idleCores() (seconds float64, known bool) {
	f, err := os.Open("/proc/stat")
	if err != nil {
		return 0, false
	}
	defer f.Close()
	var room [256]byte
	n, err := io.ReadFull(f, room[:])
	if err != nil && n == 0 {
		return 0, false
	}
	return parseIdle(room[:n])
}

func parseIdle(stat []byte) (seconds float64, known bool) {
	const ticks = 100
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) < 6 || string(fields[0]) != "cpu" {
		return 0, false
	}
	for _, field := range fields[4:6] { // idle, and idle while something waits for a disk
		n, err := strconv.ParseUint(string(field), 10, 63)
		if err != nil {
			return 0, false
		}
		seconds += float64(n) / ticks
	}
	return seconds, true
}
