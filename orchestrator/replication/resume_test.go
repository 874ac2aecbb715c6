package replication_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// delegates lists the delegates in a pool.
func (w *world) delegates(pool *delegate.Pool) map[xapi.Ref]xapi.VM {
	w.Helper()
	vms, err := xapi.AllRecords[xapi.VM](w.Context(), pool.API, "VM")
	if err != nil {
		w.Error(err)
	}
	found := map[xapi.Ref]xapi.VM{}
	for ref, vm := range vms {
		if marker, _, _ := replica.Read(w.store.Installation().UUID, vm.UUID, vm.OtherConfig); marker.Kind == replica.KindDelegate {
			found[ref] = vm
		}
	}
	return found
}

// killDelegates kills the processes of the delegates in a pool, as kill -9 does.
func (w *world) killDelegates(pool *delegate.Pool) {
	for _, vm := range w.delegates(pool) {
		if !w.kill(vm) {
			w.Errorf("delegate %s has no process that could be killed", vm.UUID)
		}
	}
}

// kill kills the process of a delegate, if it has one.
func (w *world) kill(vm xapi.VM) (killed bool) {
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	w.must(err)
	for _, path := range commands {
		line, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(line, []byte("--guest\x00")) || !bytes.Contains(line, []byte("/"+vm.UUID+".")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
		killed = killed || err == nil
	}
	return killed
}

// TestReadBackDelegateKilled: a delegate that is killed while the replica is read back is replaced, and the run is committed.
func TestReadBackDelegateKilled(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{256 * mib, 6 * mib}})
	w.request.ReadBack = replication.ReadBackFull
	w.when(func() bool {
		runs, err := w.store.Runs(t.Context(), 1)
		if err != nil || len(runs) == 0 {
			return false
		}
		phases := runs[0].Report.Phases
		return len(phases) > 0 && phases[len(phases)-1].Phase == report.PhaseVerify
	}, func() { w.killDelegates(w.b) })
	run := w.replicate()
	w.equal()
	w.tidy(1)
	if told := causes(run); !slices.Contains(told, "delegate-lost") {
		t.Errorf("events %v", run.Events)
	}
	for _, d := range run.Disks {
		if d.Verified != d.LogicalSize {
			t.Errorf("disk %s: %d bytes were read back, of %d", d.Disk, d.Verified, d.LogicalSize)
		}
	}
}

// inPlace is how much of the first disk of the replica has the source's content.
func (w *world) inPlace() (total int64) {
	want, err := os.ReadFile(w.simA.VDIPath(w.vm.VDIs[0]))
	w.must(err)
	got, err := os.ReadFile(w.replicaPath(0))
	w.must(err)
	const block = 64 << 10
	for off := 0; off < len(want); off += block {
		if bytes.Equal(want[off:off+block], got[off:off+block]) {
			total += block
		}
	}
	return total
}

func causes(run report.Run) (causes []string) {
	for _, e := range run.Events {
		causes = append(causes, e.Cause)
	}
	return causes
}

func textOf(run report.Run, cause string) string {
	for _, e := range run.Events {
		if e.Cause == cause {
			return e.Text
		}
	}
	return ""
}

// resendable is what may be sent again when a run is cut: what its target writes between two acknowledgements.
const resendable = 64 * mib

// TestDelegateKilled: a delegate that is killed in the middle is replaced, and the run goes on from what is durable.
func TestDelegateKilled(t *testing.T) {
	const size = 256 * mib
	for name, c := range map[string]struct {
		source, trust bool
		direction     report.Direction
		hard          bool // the VM is shut down by somebody, instead of its process dying
	}{
		"source":             {source: true, direction: report.Push},
		"target":             {direction: report.Push},
		"target, trusted":    {direction: report.Push, trust: true},
		"source, pull":       {source: true, direction: report.Pull},
		"target, hard, pull": {direction: report.Pull, hard: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, layout{sizes: []int64{size}})
			w.request.Direction, w.request.Trust = c.direction, c.trust
			w.request.Limit = ratelimit.Schedule{{BytesPerSecond: 16 * mib}} // so that the middle lasts, on any machine
			w.fill(w.vm.VDIs[0], size, 9)
			if c.trust {
				w.fill(w.vm.VDIs[0], mib, 1)
				w.replicate()
				w.fill(w.vm.VDIs[0], size, 10)
			}
			pool := w.b
			if c.source {
				pool = w.a
			}
			var there, before atomic.Int64 // content on the target, and counted as sent, when the delegate was lost
			w.engine.Observe = func(run report.Run) {
				if slices.Contains(causes(run), "delegate-lost") {
					before.CompareAndSwap(0, run.Disks[0].Sent)
				}
			}
			w.atJournalled(16, func() {
				if c.hard {
					for ref := range w.delegates(pool) {
						w.must(pool.API.Run(t.Context(), "VM.hard_shutdown", nil, ref))
					}
				} else {
					w.killDelegates(pool)
				}
				there.Store(w.inPlace())
			})
			run := w.replicate()
			w.equal()
			w.tidy(len(run.Disks) + map[bool]int{true: 1}[c.trust])
			if told := causes(run); !slices.Contains(told, "delegate-lost") || !slices.Contains(told, "resumed") {
				t.Errorf("events %v", run.Events)
			}
			if strings.Contains(textOf(run, "resumed"), "from extent 0 ") {
				t.Errorf("it did not go on: %s", textOf(run, "resumed"))
			}
			// The limit lets neither part of it be so fast as both together.
			if d := run.Disks[0]; d.Duration < 7*time.Second || d.Busy[report.StageRead] == 0 {
				t.Errorf("the transfer took %v in all, busy %v", d.Duration, d.Busy)
			}
			later := run.Disks[0].Sent - before.Load()
			if again := later - (size - there.Load()); again > resendable {
				t.Errorf("%d MiB were sent again", again>>20)
			}
			t.Logf("%s; %d MiB were there, then %d were sent", textOf(run, "resumed"), there.Load()>>20, later>>20)
			// The manifest that was composed of two halves is the source's: nothing differs at the next run.
			w.request.Trust, w.request.Direction = true, report.Push
			if d := w.replicate().Disks[0]; d.Mode != report.Trusted || d.Sent != 0 {
				t.Errorf("the next run is %s (%s) and sends %d bytes", d.Mode, d.Cause, d.Sent)
			}
			w.equal()
		})
	}
}

// atJournalled calls act once, as soon as so many extents of the first disk have been journalled.
func (w *world) atJournalled(extents uint32, act func()) {
	w.when(func() bool { return w.journalled(extents) }, act)
}

// journalled tells whether the watermark of the first disk is so far.
func (w *world) journalled(extents uint32) bool {
	records, err := w.store.Replicas(w.Context())
	if err != nil || len(records) != 1 {
		return false
	}
	journal, err := w.store.ReadJournal(w.Context(), records[0].ID, "0")
	if err != nil {
		return false
	}
	defer journal.Close()
	n := len(journal.Segments)
	return n > 0 && journal.Segments[n-1].Watermark >= extents
}

// TestOrchestratorKilled: the run of an orchestrator that was killed is carried on by the next one, with the snapshot that it had
// made, and from what is durable. Once the window has passed it is undone instead.
func TestOrchestratorKilled(t *testing.T) {
	const size = 256 * mib
	for name, window := range map[string]time.Duration{"goes on": 0, "too late": time.Nanosecond} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, layout{sizes: []int64{size, 4 * mib}})
			w.fill(w.vm.VDIs[0], size, 9)
			w.killWhen("16 extents are journalled", func() bool { return w.journalled(16) })
			want, err := os.ReadFile(w.simA.VDIPath(w.vm.VDIs[0]))
			w.must(err)
			dead := w.pendingRuns()
			w.write(w.simA.VDIPath(w.vm.VDIs[0]), size-mib, []byte("written since"))
			w.request.Trust, w.engine.ResumeWindow = true, window
			there := w.inPlace()
			run := w.replicate()
			w.tidy(1)
			if window > 0 {
				if told := causes(run); slices.Contains(dead, run.ID) || !slices.Contains(told, "recovered") || slices.Contains(told, "taken-over") {
					t.Errorf("run %s after %v: events %v", run.ID, dead, run.Events)
				}
				w.equal()
				return
			}
			if told := causes(run); !slices.Contains(dead, run.ID) || !slices.Contains(told, "taken-over") {
				t.Errorf("run %s after %v: events %v", run.ID, dead, run.Events)
			}
			if text := textOf(run, "resumed"); text == "" || strings.Contains(text, "from extent 0 ") {
				t.Errorf("it did not go on: %v", run.Events)
			}
			if again := run.Disks[0].Sent - (size - there); again > resendable {
				t.Errorf("%d MiB were sent again", again>>20)
			}
			t.Logf("%s; %d MiB were there, then %d were sent", textOf(run, "resumed"), there>>20, run.Disks[0].Sent>>20)
			got, err := os.ReadFile(w.replicaPath(0))
			w.must(err)
			if !bytes.Equal(got[:size], want) {
				t.Error("the replica is not the VM as it was when the run began")
			}
			d := w.replicate().Disks[0]
			w.equal()
			if d.Mode != report.Trusted || d.Sent > 2*mib {
				t.Errorf("the next run is %s (%s) and sends %d bytes", d.Mode, d.Cause, d.Sent)
			}
		})
	}
}

// TestHostRebooted: when the target's host was rebooted, nothing that was durable is trusted to be.
func TestHostRebooted(t *testing.T) {
	const size = 256 * mib
	w := newWorld(t, layout{sizes: []int64{size}})
	w.fill(w.vm.VDIs[0], size, 9)
	w.atJournalled(16, func() {
		hosts, err := xapi.AllRecords[xapi.Host](t.Context(), w.b.API, "host")
		w.must(err)
		for ref := range hosts {
			w.must(w.b.API.Call(t.Context(), "host.set_other_config", nil, ref, map[string]string{"boot_time": fmt.Sprint(4e9)}))
		}
		w.killDelegates(w.b)
		// What the host had in its memory is lost.
		w.write(w.replicaPath(0), 8*mib, make([]byte, 4*mib))
	})
	run := w.replicate()
	w.equal()
	w.tidy(1)
	if told := causes(run); !slices.Contains(told, "watermark-void") || slices.Contains(told, "resumed") {
		t.Errorf("events %v", run.Events)
	}
	if d := run.Disks[0]; d.Mode != report.Untrusted || !strings.Contains(d.Cause, "was rebooted") {
		t.Errorf("mode %s (%s)", d.Mode, d.Cause)
	}
}
