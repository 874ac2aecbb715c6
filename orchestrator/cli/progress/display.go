package progress

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/orchestrator/report"
)

// lineInterval is the time between two lines about one disk where there is no terminal.
const lineInterval = 3 * time.Second

// Display shows one run after the other. Its methods may be called concurrently.
type Display struct {
	out  io.Writer
	bars *bars // nil where there is no terminal

	mu     sync.Mutex
	run    string // the id of the run shown
	phases int    // of the run, shown so far
	events int    // likewise
	disks  map[string]*disk
	step   string // the latest of Step and Amount
	shown  time.Time
	meter  meter // of the latest Amount
}

// disk is what was shown of one disk.
type disk struct {
	state  report.DiskState
	shown  time.Time
	meter  meter
	latest report.Disk
}

// New shows runs on out: with bars when out is a terminal. Close it before writing to out again.
func New(out io.Writer) *Display {
	d := &Display{out: out}
	if isTerminal(out) {
		d.bars = newBars(out)
	}
	return d
}

// isTerminal reports whether w is a terminal that can rewrite its lines. Some have no size, such as a console over a serial line.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return false
	}
	window, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return err == nil && window.Row > 0 && window.Col > 0
}

// Write shows whole lines, above the bars if there are any.
func (d *Display) Write(p []byte) (int, error) {
	if d.bars != nil {
		return d.bars.Write(p)
	}
	return d.out.Write(p)
}

// Observe shows how far a run has come. It keeps nothing of run.
func (d *Display) Observe(run report.Run) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if run.ID != d.run {
		d.finishBars()
		d.run, d.phases, d.events, d.disks = run.ID, 0, 0, map[string]*disk{}
	}
	for ; d.phases < len(run.Phases); d.phases++ { // those that were over between two looks, too
		d.line("%s", phaseText(run.Phases[d.phases].Phase))
	}
	for ; d.events < len(run.Events); d.events++ {
		d.line("note: %s", run.Events[d.events].Text)
	}
	now := time.Now()
	for _, latest := range run.Disks {
		d.observeDisk(latest, now)
	}
	if run.State.Final() {
		d.finishBars()
	}
}

func (d *Display) observeDisk(latest report.Disk, now time.Time) {
	known := d.disks[latest.Disk]
	if known == nil {
		known = &disk{state: report.DiskPending}
		d.disks[latest.Disk] = known
	}
	known.latest = latest
	known.meter.add(now, settled(latest))
	if latest.State == report.DiskPending || latest.LogicalSize <= 0 {
		return
	}
	if d.bars != nil {
		d.bars.show(latest, known.meter.rate())
		return
	}
	changed := latest.State != known.state && !(done(latest.State) && done(known.state))
	if !changed && (latest.State != report.DiskMoving || now.Sub(known.shown) < lineInterval) {
		return
	}
	known.state, known.shown = latest.State, now
	d.line("disk %s: %s", latest.Disk, diskText(latest, known.meter.rate()))
}

// Step says what begins, outside any run.
func (d *Display) Step(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.begin(what) {
		d.line("%s", what)
	}
}

// Amount shows how much of a step is done, in bytes.
func (d *Display) Amount(what string, done, total int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	begins := d.begin(what)
	now := time.Now()
	d.meter.add(now, done)
	rate := size(int64(d.meter.rate()))
	switch {
	case d.bars != nil:
		d.bars.draw(what, done, total, fmt.Sprintf(" %3d %% of %s  %s/s", percent(done, total), size(total), rate))
	case begins:
		d.shown = now
		d.line("%s, %s", what, size(total))
	case now.Sub(d.shown) >= lineInterval:
		d.shown = now
		d.line("%s: %3d %% of %s, %s/s", what, percent(done, total), size(total), rate)
	}
}

// begin notes a step and reports whether it is another than the one before, whose bar then stays as it is.
func (d *Display) begin(what string) bool {
	if what == d.step {
		return false
	}
	d.finishBars()
	d.step, d.meter = what, meter{}
	return true
}

// Close leaves the bars as they stand and waits until they are drawn.
func (d *Display) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.finishBars()
}

// finishBars ends the bars of a run; those of the next one come below.
func (d *Display) finishBars() {
	if d.bars != nil {
		d.bars.finish()
	}
}

func (d *Display) line(format string, values ...any) {
	// A display that cannot be written to is no reason to end a run.
	_, _ = fmt.Fprintf(d, format+"\n", values...)
}

// settled is how much of a disk needs no more work, in bytes.
func settled(d report.Disk) int64 { return d.Same + d.Zero + d.Copied + d.Sent + d.Spared }

// percent is 100 only for all.
func percent(done, total int64) int { return int(done * 100 / max(total, 1)) }

// done reports whether all of a disk is on the target; committing follows for all disks at once.
func done(s report.DiskState) bool { return s == report.DiskFlushed || s == report.DiskCommitted }

func diskText(d report.Disk, rate float64) string {
	switch {
	case d.State == report.DiskMoving && settled(d) == 0:
		return "begins, " + size(d.LogicalSize)
	case d.State == report.DiskMoving:
		return fmt.Sprintf("%3d %% of %s, %s/s, read %s, sent %s", percent(settled(d), d.LogicalSize), size(d.LogicalSize), size(int64(rate)), size(d.Read), size(d.Sent))
	case d.State == report.DiskFailed:
		return fmt.Sprintf("failed at %d %% of %s", percent(settled(d), d.LogicalSize), size(d.LogicalSize))
	default:
		return fmt.Sprintf("done, %s, read %s, sent %s in %s", size(d.LogicalSize), size(d.Read), size(d.Sent), d.Duration.Round(10*time.Millisecond))
	}
}

func phaseText(p report.Phase) string {
	switch p {
	case report.PhasePlan:
		return "looking at the pools and planning"
	case report.PhasePrepare:
		return "taking the snapshot and preparing the replica"
	case report.PhaseSpawn:
		return "starting the delegates and plugging the disks"
	case report.PhaseTransfer:
		return "comparing and moving the disks"
	case report.PhaseVerify:
		return "reading the replica back"
	case report.PhaseCommit:
		return "committing"
	case report.PhaseCleanup:
		return "removing delegates, clones and the snapshot"
	default:
		return string(p)
	}
}

// size writes bytes in binary units.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
