package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// watchdogSeconds is how long the watchdog waits for a kick before it restarts the machine.
const watchdogSeconds = 60

// softwareWatchdog is softdog's identity: a timer of this very kernel.
const softwareWatchdog = "Software Watchdog"

// errNoWatchdog is returned when the machine has none.
var errNoWatchdog = errors.New("no watchdog: a machine that stands still will not end by itself; list xen_wdt or softdog in /etc/modules")

// watchdog is an armed watchdog (Documentation/watchdog/watchdog-api.rst). Its methods may be called by several goroutines.
type watchdog struct {
	mu       sync.Mutex
	file     *os.File // nil when closed
	identity string
}

// openWatchdog arms the machine's best watchdog: one outside this kernel, such as Xen's, before softdog.
func (s System) openWatchdog() (*watchdog, error) {
	found, err := filepath.Glob(s.path("/sys/class/watchdog/watchdog*"))
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errNoWatchdog
	}
	slices.Sort(found)
	name, identity := "", ""
	for _, directory := range found {
		candidate := filepath.Base(directory)
		if id := s.word("/sys/class/watchdog/" + candidate + "/identity"); name == "" || identity == softwareWatchdog && id != softwareWatchdog {
			name, identity = candidate, id
		}
	}
	f, err := os.OpenFile(s.path("/dev/"+name), os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("watchdog %q: %w", identity, err)
	}
	w := &watchdog{file: f, identity: identity}
	// A watchdog that cannot change its time keeps its own, which is a minute or half of one everywhere.
	_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, watchdogSeconds)
	return w, nil
}

// kick gives the machine another while.
func (w *watchdog) kick() error { return w.write("\x00") }

// close disarms the watchdog: 'V' is the magic character without which closing leaves it armed.
func (w *watchdog) close() error {
	err := w.write("V")
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file != nil {
		err = errors.Join(err, w.file.Close())
		w.file = nil
	}
	return err
}

func (w *watchdog) write(text string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return nil
	}
	if _, err := w.file.WriteString(text); err != nil {
		return fmt.Errorf("watchdog %q: %w", w.identity, err)
	}
	return nil
}
