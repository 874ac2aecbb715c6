package progress_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/orchestrator/cli/progress"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const mib = 1 << 20

// story is a run as it is observed, step by step.
func story() []report.Run {
	disk := func(state report.DiskState, same, sent int64) report.Disk {
		return report.Disk{
			Disk: "0", LogicalSize: 64 * mib, State: state, Duration: 1500 * time.Millisecond,
			Counters: report.Counters{Read: same + sent, Same: same, Sent: sent},
		}
	}
	phases := []report.PhaseTime{{Phase: report.PhasePlan}, {Phase: report.PhaseSpawn}, {Phase: report.PhaseTransfer}, {Phase: report.PhaseCleanup}}
	run := func(state report.State, begun int, disk report.Disk, events ...string) report.Run {
		r := report.Run{ID: "run-1", State: state, Disks: []report.Disk{disk}, Phases: phases[:begun]}
		for _, text := range events {
			r.Events = append(r.Events, report.Event{Cause: "test", Text: text})
		}
		return r
	}
	return []report.Run{
		run(report.StateRunning, 1, disk(report.DiskPending, 0, 0)),
		run(report.StateRunning, 3, disk(report.DiskMoving, 0, 0), "the manifest is lost"),
		run(report.StateRunning, 3, disk(report.DiskMoving, 30*mib, 2*mib), "the manifest is lost"),
		run(report.StateRunning, 3, disk(report.DiskFlushed, 60*mib, 4*mib), "the manifest is lost"),
		run(report.StateCommitted, 4, disk(report.DiskCommitted, 60*mib, 4*mib), "the manifest is lost"),
	}
}

func TestPlainLinesSayEachThingOnce(t *testing.T) {
	var out bytes.Buffer
	d := progress.New(&out)
	for _, run := range story() {
		d.Observe(run)
	}
	d.Close()
	want := `looking at the pools and planning
starting the delegates and plugging the disks
comparing and moving the disks
note: the manifest is lost
disk 0: begins, 64 MiB
disk 0: done, 64 MiB, read 64 MiB, sent 4.0 MiB in 1.5s
removing delegates, clones and the snapshot
`
	// The start of the delegates was over between two looks. The half-way step comes within the interval of lines and is left out.
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

func TestANewRunBeginsAnew(t *testing.T) {
	var out bytes.Buffer
	d := progress.New(&out)
	defer d.Close()
	for _, id := range []string{"run-1", "run-2"} {
		for _, run := range story() {
			run.ID = id
			d.Observe(run)
		}
	}
	if n := strings.Count(out.String(), "disk 0: done"); n != 2 {
		t.Errorf("%d disks done, want one for each run:\n%s", n, out.String())
	}
}

func TestAFailedDiskIsSaid(t *testing.T) {
	var out bytes.Buffer
	d := progress.New(&out)
	defer d.Close()
	run := story()[2]
	run.Disks[0].State = report.DiskFailed
	d.Observe(run)
	if !strings.Contains(out.String(), "disk 0: failed at 50 % of 64 MiB") {
		t.Errorf("got %q", out.String())
	}
}

func TestStepsAndAmounts(t *testing.T) {
	var out bytes.Buffer
	d := progress.New(&out)
	d.Step("checking")
	d.Step("checking")
	for done := int64(0); done <= 3*mib; done += mib {
		d.Amount("uploading", done, 3*mib)
	}
	d.Step("completing")
	d.Close()
	if want := "checking\nuploading, 3.0 MiB\ncompleting\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

// terminal opens a pseudo-terminal of the size and returns what was written to it until the returned function is called.
func terminal(t *testing.T, rows, columns uint16) (end *os.File, shown func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	end, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(end.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = got.ReadFrom(master) // ends with an error when the other end is closed
	}()
	return end, func() string {
		_ = end.Close()
		<-read
		_ = master.Close()
		return got.String()
	}
}

func TestBarsOnATerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	end, shown := terminal(t, 40, 120)
	d := progress.New(end)
	for _, run := range story() {
		d.Observe(run)
	}
	if _, err := fmt.Fprintln(d, "a line of the log"); err != nil {
		t.Error(err)
	}
	d.Close()
	got := shown()
	for _, want := range []string{"disk 0", "100 % of 64 MiB", "sent 4.0 MiB", "committed", "note: the manifest is lost", "a line of the log"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not shown in %q", want, got)
		}
	}
}

func TestAnAbandonedRunLeavesNothingRunning(t *testing.T) {
	t.Setenv("TERM", "xterm")
	end, shown := terminal(t, 40, 120)
	d := progress.New(end)
	d.Observe(story()[2])
	d.Close()
	d.Close()
	if got := shown(); !strings.Contains(got, "50 % of 64 MiB") {
		t.Errorf("the bar is not shown in %q", got)
	}
}

func TestATerminalWithoutSizeGetsLines(t *testing.T) {
	t.Setenv("TERM", "xterm")
	end, shown := terminal(t, 0, 0)
	d := progress.New(end)
	d.Observe(story()[1])
	d.Close()
	if got := shown(); !strings.Contains(got, "disk 0: begins, 64 MiB") {
		t.Errorf("got %q", got)
	}
}
