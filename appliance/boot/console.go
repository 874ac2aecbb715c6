package boot

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// consoleLines is how many lines wait for a slow console; later ones are dropped and counted.
	consoleLines = 256
	// maxLine bounds a line in bytes, and with it what waits.
	maxLine = 8 << 10
	// lineTimeout is how long a console may take for a line: one that nobody reads, such as a Xen console without its daemon, is
	// full for ever.
	lineTimeout = time.Second
)

// console writes lines to every console that the kernel uses. A console that stands still keeps nobody waiting.
type console struct {
	mu      sync.Mutex // of closed
	closed  bool
	outputs []*output
	running sync.WaitGroup
}

// output is one device.
type output struct {
	file    *os.File
	lines   chan string
	dropped atomic.Int64
	last    string // written when lines is closed, whatever was dropped
}

// consoleNames lists the kernel's consoles. The last is where /dev/console leads (Documentation/ABI/testing/sysfs-tty): the kernel
// prints to all of them, a program that writes to /dev/console reaches one.
func (s System) consoleNames() []string {
	if names := strings.Fields(s.word("/sys/class/tty/console/active")); len(names) > 0 {
		return names
	}
	return []string{"console"}
}

// openConsole opens the kernel's consoles. What cannot be opened is left out and told; with none left lines go nowhere.
func (s System) openConsole() (*console, error) {
	c := new(console)
	var failed []error
	for _, name := range s.consoleNames() {
		// With O_NONBLOCK writes can have a deadline.
		f, err := os.OpenFile(s.path("/dev/"+name), unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			failed = append(failed, fmt.Errorf("console: %w", err))
			continue
		}
		o := &output{file: f, lines: make(chan string, consoleLines)}
		c.outputs = append(c.outputs, o)
		c.running.Go(o.run)
	}
	return c, errors.Join(failed...)
}

// print queues a line for every console. It never waits.
func (c *console) print(line string) {
	if len(line) > maxLine {
		line = line[:maxLine] + "…"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	for _, o := range c.outputs {
		select {
		case o.lines <- line:
		default:
			o.dropped.Add(1)
		}
	}
}

// close writes out what waits and then a last line, for so long at most.
func (c *console) close(last string, limit time.Duration) {
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if closed {
		return
	}
	for _, o := range c.outputs {
		o.last = last
		close(o.lines)
		stop := time.AfterFunc(limit, func() { _ = o.file.Close() }) // fails the write under way and all that follow
		defer stop.Stop()
	}
	c.running.Wait()
}

func (o *output) run() {
	defer o.file.Close()
	for line := range o.lines {
		o.write(line)
	}
	o.write(o.last)
}

func (o *output) write(line string) {
	lost := o.dropped.Swap(0)
	if lost > 0 {
		line = fmt.Sprintf("understudy: %d lines dropped: this console was too slow\n%s", lost, line)
	}
	_ = o.file.SetWriteDeadline(time.Now().Add(lineTimeout)) // fails for a plain file, which needs none
	if _, err := o.file.WriteString(line + "\n"); err != nil {
		o.dropped.Add(lost + 1)
	}
}
