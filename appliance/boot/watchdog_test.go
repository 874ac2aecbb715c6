package boot_test

import (
	"strings"
	"testing"
	"time"
)

// watchdogs puts these into the machine, by identity.
func (w *world) watchdogs(identities map[string]string) {
	for name, identity := range identities {
		w.write("/sys/class/watchdog/"+name+"/identity", identity+"\n")
		w.write("/dev/"+name, "")
	}
}

// The work beats for longer than it may be silent, and the watchdog is kicked meanwhile.
func TestWatchdog(t *testing.T) {
	w := newWorld(t)
	w.watchdogs(map[string]string{"watchdog0": "Software Watchdog", "watchdog1": "Xen Watchdog Timer", "watchdog2": "Another"})
	o := w.options()
	o.Stall = 2 * time.Second
	if last, _ := w.supervise(o, "beat for 3s", nil); last != "the work is done" {
		t.Errorf("the cause is %q", last)
	}
	kicks := w.read("/dev/watchdog1")
	if count := strings.Count(kicks, "\x00"); count < 20 || kicks != strings.Repeat("\x00", count)+"V" {
		t.Errorf("the watchdog took %q, want kicks and a magic close", kicks)
	}
	if got := w.read("/dev/watchdog0") + w.read("/dev/watchdog2"); got != "" {
		t.Errorf("the other watchdogs took %q", got)
	}
}

func TestSoftwareWatchdog(t *testing.T) {
	w := newWorld(t)
	w.watchdogs(map[string]string{"watchdog0": "Software Watchdog"})
	w.supervise(w.options(), "done", nil)
	if kicks := w.read("/dev/watchdog0"); !strings.HasSuffix(kicks, "V") {
		t.Errorf("the watchdog took %q", kicks)
	}
}

func TestNoWatchdog(t *testing.T) {
	w := newWorld(t)
	w.boot(w.options())
	w.awaitLine("warn: no watchdog")
}

// Work that does not beat ends the machine, and the watchdog is not kicked for it.
func TestStall(t *testing.T) {
	w := newWorld(t)
	w.watchdogs(map[string]string{"watchdog0": "Xen"})
	o := w.options()
	o.Stall = 100 * time.Millisecond
	last, _ := w.supervise(o, "look for kicks at the end", nil)
	if !strings.Contains(last, "main loop has stood still") {
		t.Errorf("the cause is %q", last)
	}
}
