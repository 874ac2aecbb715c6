package boot

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options of Init. Zero durations take their defaults.
type Options struct {
	Version string // of the software, for the console
	System  System // Kernel() in earnest
	// Publish tells the pool the cause of the machine's end, for work that died and could not; nil: nobody is told. ctx ends after
	// Options.PublishLimit. It may panic, hang, and power the machine off itself.
	Publish func(ctx context.Context, m *Machine, cause string) error

	// Kick is how often the watchdog is kicked and the heartbeat looked at; default 10 s.
	Kick time.Duration
	// Stall is how old the last heartbeat may get; default 2 min.
	Stall time.Duration
	// MemoryPoll is how often the memory guard looks; default 1 s.
	MemoryPoll time.Duration
	// Grace is how long the work may take to end when it was told to; default 20 s.
	Grace time.Duration
	// PublishLimit bounds Publish; default 5 s.
	PublishLimit time.Duration
}

func (o Options) withDefaults() Options {
	o.Kick = cmp.Or(o.Kick, 10*time.Second)
	o.Stall = cmp.Or(o.Stall, 2*time.Minute)
	o.MemoryPoll = cmp.Or(o.MemoryPoll, time.Second)
	o.Grace = cmp.Or(o.Grace, 20*time.Second)
	o.PublishLimit = cmp.Or(o.PublishLimit, 5*time.Second)
	return o
}

// Machine is a machine whose PID 1 this process is, as PID 1 sees it. Its methods may be called by several goroutines.
type Machine struct {
	options  Options
	system   System
	console  *console
	log      *slog.Logger
	watchdog *watchdog // nil when there is none

	off    sync.Once
	offErr error
}

// Init makes a usable machine of what the kernel left: file systems, consoles, modules, watchdog. Every step that goes wrong is
// told on the console. An error means that the machine cannot be used; End works even then.
func Init(o Options) (*Machine, error) {
	o = o.withDefaults()
	m := &Machine{options: o, system: o.System}
	mountErr := m.system.mountAll(basicMounts...)
	console, consoleErr := m.system.openConsole()
	m.console, m.log = console, slog.New(newConsoleHandler(console.print))
	if mountErr != nil {
		return m, fmt.Errorf("boot: %w", mountErr)
	}
	m.log.Info("delegate "+o.Version, "kernel", m.system.word("/proc/sys/kernel/osrelease"),
		"consoles", strings.Join(m.system.consoleNames(), " "), "command_line", m.system.word("/proc/cmdline"))
	m.warn(consoleErr)
	m.warn(m.setCrashOutput())
	m.warn(m.system.mountAll(scratchMounts...))
	m.warn(m.system.setSysctls())
	// Ctrl-alt-del then is a signal to this process instead of a restart.
	m.warn(m.system.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF))
	m.loadModules()
	m.tellClock()
	m.openWatchdog()
	if found, err := m.system.memory(); err != nil {
		m.warn(err)
	} else {
		m.log.Info("booted", "memory_mib", found.total>>20, "available_mib", found.available>>20)
	}
	return m, nil
}

func (m *Machine) warn(err error) {
	if err != nil {
		m.log.Warn(err.Error())
	}
}

// setCrashOutput has the runtime print a fatal error, which no recover sees, on a second console beside standard error, which is
// /dev/console and with it the last one of the list.
func (m *Machine) setCrashOutput() error {
	names := m.system.consoleNames()
	if len(names) < 2 {
		return nil
	}
	// Opening must not wait for a carrier; the runtime's copy of the file writes with patience again (os.File.Fd).
	f, err := os.OpenFile(m.system.path("/dev/"+names[len(names)-2]), unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("console for crashes: %w", err)
	}
	defer f.Close()
	return debug.SetCrashOutput(f, debug.CrashOptions{})
}

// ringOrderParameter is how many ring pages (as a power of two) blkfront asks for. The default of 0 leaves it 32 requests of 44 KiB
// in flight (xapi-facts §8.2), so the image's command line sets 3.
const ringOrderParameter = "/sys/module/xen_blkfront/parameters/max_ring_page_order"

func (m *Machine) loadModules() {
	result := m.system.loadModules(ParseCommandLine(m.system.word("/proc/cmdline")))
	for _, err := range result.failed {
		m.warn(err)
	}
	m.log.Info("modules", "loaded", strings.Join(result.loaded, " "), "without_device", strings.Join(result.absent, " "))
	if order := m.system.word(ringOrderParameter); order != "" {
		m.log.Info("xen_blkfront max_ring_page_order=" + order)
	}
}

// plausible is before any clock that is right: the year of the first release.
var plausible = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// tellClock lets a reader of logs see how far off the clock is. Nothing depends on it: TLS pins keys and ignores dates.
func (m *Machine) tellClock() {
	now, rtc := time.Now().UTC(), strings.TrimSpace(m.system.word("/sys/class/rtc/rtc0/date")+" "+m.system.word("/sys/class/rtc/rtc0/time"))
	m.log.Info("clock", "system", now.Format(time.DateTime), "rtc", rtc)
	if now.Before(plausible) {
		m.log.Warn("the clock is wrong: times in this log are, too; nothing else depends on it")
	}
}

func (m *Machine) openWatchdog() {
	w, err := m.system.openWatchdog()
	if err != nil {
		m.warn(err)
		return
	}
	m.watchdog = w
	m.log.Info("watchdog armed", "identity", w.identity)
}

// Console is a handler whose lines stand on the machine's consoles, each after the kernel's uptime. It never waits: a console that
// is too slow loses lines, and says how many.
func (m *Machine) Console() slog.Handler { return m.log.Handler() }

// farewell bounds each of the last steps, any of which may hang in a machine that is ill.
const farewell = 3 * time.Second

// PowerOff ends the machine. The console's last line tells the cause. It returns only if that does not work, with the error.
func (m *Machine) PowerOff(cause string) error {
	m.off.Do(func() { m.offErr = m.powerOff(cause) })
	return m.offErr
}

func (m *Machine) powerOff(cause string) error {
	synced := make(chan struct{})
	go func() { // nobody waits longer than farewell: sync(2) hangs with a disk that does
		defer close(synced)
		m.system.Sync()
	}()
	select {
	case <-synced:
	case <-time.After(farewell):
		m.log.Warn("sync hangs: a disk does not answer")
	}
	if m.watchdog != nil {
		m.warn(m.watchdog.close())
	}
	m.console.close("understudy: power off: "+strings.Join(strings.Fields(cause), " "), farewell)
	if err := m.system.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		return fmt.Errorf("boot: power off: %w", err)
	}
	return nil
}
