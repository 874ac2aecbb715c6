package boot_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/appliance/boot"
)

func TestMounts(t *testing.T) {
	w := newWorld(t)
	w.write("/proc/self/mounts", "sysfs "+w.root+"/sys sysfs rw 0 0\nnone "+w.root+"/tmp/x tmpfs rw 0 0\n")
	w.fails["mount proc"] = unix.EBUSY // it is there already
	w.boot(w.options())
	want := []string{
		"mount proc /proc", "mount devtmpfs /dev mode=0755", "mount tmpfs /run mode=0755,size=4m", "mount tmpfs /tmp mode=1777,size=4m",
	}
	if got := w.asked("mount"); !slices.Equal(got, want) {
		t.Errorf("mounted %q, want %q", got, want)
	}
	for name, want := range map[string]string{"kernel/panic": "5", "kernel/panic_on_oops": "1", "net/ipv4/tcp_rmem": "4096 131072 16777216", "net/ipv4/tcp_wmem": "4096 16384 16777216"} {
		if got := strings.TrimSpace(w.read("/proc/sys/" + name)); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if len(w.asked("cad off")) != 1 {
		t.Error("ctrl-alt-del still restarts the machine")
	}
}

// What must be mounted and cannot be ends Init; the machine can still say so, publish it if there is a way, and power off.
func TestMountFails(t *testing.T) {
	w := newWorld(t)
	w.fails["mount sysfs"] = unix.EPERM
	var pool publications
	o := w.options()
	o.Publish = pool.publish
	m, err := boot.Init(o)
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "/sys") {
		t.Fatalf("Init is %v", err)
	}
	if err := m.End(err.Error()); err != nil {
		t.Error(err)
	}
	if len(pool.causes) != 1 || !strings.Contains(pool.causes[0], "mount sysfs") {
		t.Errorf("published %q", pool.causes)
	}
	if got := w.awaitLine("understudy: power off"); got != "understudy: power off: boot: mount sysfs on /sys: operation not permitted" {
		t.Errorf("the last line is %q", got)
	}
	if w.asked("power off") == nil || w.asked("load") != nil {
		t.Errorf("the kernel was asked for %q", w.calls)
	}
}

func TestScratchMountFails(t *testing.T) {
	w := newWorld(t)
	w.fails["mount tmpfs /run"] = unix.ENOMEM
	w.boot(w.options())
	w.awaitLine("warn: mount tmpfs on /run")
}

func TestAwaitPath(t *testing.T) {
	w := newWorld(t)
	w.write("/dev/both", "")
	for _, test := range []struct {
		paths []string
		want  string
	}{
		{[]string{"/dev/none", "/sys/none"}, ""},
		{[]string{"/dev/none", "/dev/both"}, "/dev/both"},
		{[]string{"/dev/both", "/dev/tty0"}, "/dev/both"},
		{nil, ""},
	} {
		if got := w.system.AwaitPath(50*time.Millisecond, test.paths...); got != test.want {
			t.Errorf("of %q %q is there, want %q", test.paths, got, test.want)
		}
	}
	time.AfterFunc(30*time.Millisecond, func() { w.write("/dev/late", "") })
	if got := w.system.AwaitPath(within, "/dev/late"); got != "/dev/late" {
		t.Errorf("what came late is %q", got)
	}
}

func (w *world) remove(name string) {
	w.t.Helper()
	if err := os.RemoveAll(filepath.Join(w.root, name)); err != nil {
		w.t.Fatal(err)
	}
}

func TestCheckMemory(t *testing.T) {
	for total, want := range map[int]string{91: "91 MiB", 143: "256 MiB", 144: "", 217: ""} {
		w := newWorld(t)
		w.write("/proc/meminfo", meminfo(total, 60))
		err := w.system.CheckMemory()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("with %d MiB: %v, want %q", total, err, want)
		}
	}
	for _, broken := range []string{"", "MemTotal: x kB\n", "MemTotal: 1 kB\n", "MemTotal: -1 kB\nMemAvailable: 1 kB\n"} {
		w := newWorld(t)
		w.write("/proc/meminfo", broken)
		if err := w.system.CheckMemory(); err == nil {
			t.Errorf("%q passes for a reading", broken)
		}
	}
}

// The log stands on all consoles but those that cannot be opened, which are told.
func TestConsoles(t *testing.T) {
	w := newWorld(t)
	w.write("/sys/class/tty/console/active", "tty0 ttyS9 hvc0\n")
	w.write("/sys/class/rtc/rtc0/date", "2026-11-22\n")
	w.write("/sys/class/rtc/rtc0/time", "16:14:38\n")
	m := w.boot(w.options())
	w.awaitLine("ttyS9")
	log := slog.New(m.Console()).With("task", "t 1").WithGroup("disk")
	log.Debug("not shown")
	log.Info("ready", "level", "x", "n", 4)
	line := w.awaitLine("ready")
	if want := `^understudy: \+\d+\.\d\ds ready task="t 1" disk\.level=x disk\.n=4$`; !regexp.MustCompile(want).MatchString(line) {
		t.Errorf("line is %q, want %s", line, want)
	}
	slog.New(m.Console()).Error("broken", "level", "high", "msg", "m")
	if line := w.awaitLine("broken"); !strings.HasSuffix(line, "s error: broken level=high msg=m") {
		t.Errorf("line is %q", line)
	}
	if err := m.PowerOff("two\nlines"); err != nil {
		t.Fatal(err)
	}
	shown := w.read("/dev/tty0")
	for _, want := range []string{"delegate 1.2.3", "kernel=" + fakeRelease, `rtc="2026-11-22 16:14:38"`, "booted", "memory_mib=217", "ready"} {
		if !strings.Contains(shown, want) {
			t.Errorf("the other console does not show %q:\n%s", want, shown)
		}
	}
	if !strings.HasSuffix(shown, "\nunderstudy: power off: two lines\n") || strings.Contains(shown, "not shown") {
		t.Errorf("the other console shows\n%s", shown)
	}
}

// Without the kernel's list of consoles /dev/console is used.
func TestNoConsoleList(t *testing.T) {
	w := newWorld(t)
	w.remove("/sys/class/tty")
	w.write("/dev/console", "")
	if err := w.boot(w.options()).PowerOff("x"); err != nil {
		t.Error(err)
	}
	if !strings.Contains(w.read("/dev/console"), "power off: x") {
		t.Error("/dev/console says nothing")
	}
}

// A console that nobody reads keeps neither the log nor the power-off waiting, and the others show everything.
func TestDeadConsole(t *testing.T) {
	w := newWorld(t)
	w.write("/sys/class/tty/console/active", "ttyS0 hvc0\n")
	dead := w.fifo("/dev/ttyS0")
	m := w.boot(w.options())
	log := slog.New(m.Console())
	line := strings.Repeat("x", 1000)
	for i := range 600 {
		log.Info(line, "i", i)
		w.awaitLine("i=")
	}
	if err := m.PowerOff("over"); err != nil {
		t.Error(err)
	}
	w.awaitLine("power off: over")
	// What the console shows when it is read again is whole up to where it stood still.
	first := make([]byte, 4096)
	if n, err := dead.Read(first); err != nil || !strings.HasPrefix(string(first[:n]), "understudy: +") {
		t.Errorf("the dead console holds %.100q, %v", first[:n], err)
	}
}

// A console that was slow for a while says how many lines it lost.
func TestSlowConsole(t *testing.T) {
	w := newWorld(t)
	w.write("/sys/class/tty/console/active", "ttyS0 hvc0\n")
	slow := w.fifo("/dev/ttyS0")
	m := w.boot(w.options())
	log := slog.New(m.Console())
	line := strings.Repeat("x", 1000)
	for i := range 600 { // more than the pipe's 64 KiB and the queue hold
		log.Info(line, "i", i)
		w.awaitLine("i=")
	}
	read := make(chan string)
	go func() {
		var all []byte
		buffer := make([]byte, 1<<16)
		for !bytes.HasSuffix(all, []byte("power off: over\n")) {
			n, err := slow.Read(buffer)
			if all = append(all, buffer[:n]...); err != nil {
				break
			}
		}
		read <- string(all)
	}()
	if err := m.PowerOff("over"); err != nil {
		t.Error(err)
	}
	all := ""
	select {
	case all = <-read:
	case <-time.After(within):
		_ = slow.Close() // ends the read
		all = <-read
	}
	if !regexp.MustCompile(`\nunderstudy: \d+ lines dropped`).MatchString(all) || !strings.HasSuffix(all, "power off: over\n") {
		t.Errorf("the slow console ends with %q", all[max(0, len(all)-300):])
	}
}
