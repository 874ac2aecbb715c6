package replication_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

var wholeMatrix = flag.Bool("matrix", false, "TestKillMatrix: kill at every border, and restart both by the next run and by gc")

// matrix kills the orchestrator at every border of what it does, restarts it and looks at what is there then.
type matrix struct {
	*world
	rows  []string
	seen  map[string]int // outcomes
	turns int
	at    int // where the next write to the source goes
}

// TestKillMatrix prints, with -v, what became of each kill. Without -matrix it takes a fifth of the borders of recorded steps and of
// calls that make or remove an object, in turns with one of the two ways to restart; with it all of them and of every other call that
// changes a pool, with both.
func TestKillMatrix(t *testing.T) {
	m := &matrix{world: newWorld(t, layout{sizes: []int64{4 * mib, 4 * mib}}), seen: map[string]int{}}
	m.request.Trust, m.request.CBT = true, replication.CBTOn
	m.first()
	m.replications()
	m.pauses()
	m.exports()
	m.reverts()
	m.failovers()
	m.undos()
	m.plannedFailovers()
	m.copies()
	m.resyncs()
	m.tests()
	m.endsOfTests()
	m.reversals()
	m.detaches()
	t.Logf("%d kills\n%-9s %-6s %-34s %-6s %s\n%s", len(m.rows), "run", "killed", "step", "then", "outcome", strings.Join(m.rows, "\n"))
	for _, outcome := range []string{resumed, rolledBack, committed, tookOver} {
		if m.seen[outcome] == 0 {
			t.Errorf("no kill ended as %q", outcome)
		}
	}
}

// What becomes of a run whose process was killed.
const (
	resumed    = "resumed"
	rolledBack = "rolled back"
	committed  = "had committed"
	tookOver   = "taken over" // by an orchestrator on a copy of the state folder
)

var objectCalls = regexp.MustCompile(`: (VM\.(snapshot|clone|create|destroy|revert)|VDI\.(clone|create|destroy|data_destroy)) 1$`)

// each has check, for every border that is taken, kill a child there, restart by gc or by the next run, and tell the outcome.
func (m *matrix) each(run string, borders []string, check func(border string, gc bool) string) {
	m.Helper()
	for _, border := range borders {
		if call := strings.Contains(border, ": "); call && !*wholeMatrix && !objectCalls.MatchString(border) {
			continue
		}
		m.turns++
		ways := []bool{m.turns%2 == 0}
		switch {
		case *wholeMatrix:
			ways = []bool{false, true}
		case m.turns%5 != 0:
			continue
		}
		for _, gc := range ways {
			then := map[bool]string{false: "again", true: "gc"}[gc]
			outcome := check(border, gc)
			if bases := m.cbtBases(); len(bases) > len(m.vm.VDIs) {
				m.Errorf("%d disks of the source have %d bases", len(m.vm.VDIs), len(bases))
			}
			when, step, _ := strings.Cut(border, " ")
			m.tell(run, when, step, then, outcome)
		}
	}
}

// tell adds a row to the table.
func (m *matrix) tell(run, when, step, then, outcome string) {
	m.Helper()
	m.rows = append(m.rows, fmt.Sprintf("%-9s %-6s %-34s %-6s %s", run, when, step, then, outcome))
	m.seen[outcome]++
	if m.Failed() {
		m.Fatalf("the last of these failed\n%s", strings.Join(m.rows, "\n"))
	}
	m.Log(m.rows[len(m.rows)-1])
}

// recover is 'gc'. It ends the one run that has not ended, when there is one.
func (m *matrix) recover() {
	m.Helper()
	if _, err := m.engine.Recover(m.Context(), m.a, m.b); err != nil {
		m.Errorf("gc: %v", err)
	}
	if _, err := m.engine.CollectBases(m.Context(), false, m.a, m.b); err != nil {
		m.Errorf("gc of bases: %v", err)
	}
	if pending := m.pendingRuns(); len(pending) != 0 {
		m.Errorf("after gc %v are pending", pending)
	}
}

// change writes to the source what it has never held.
func (m *matrix) change() {
	m.at++
	m.write(m.simA.VDIPath(m.vm.VDIs[m.at%2]), 3*mib, fmt.Appendf(nil, "change %d", m.at))
}

// sources is what the source's disks hold.
func (m *matrix) sources() (contents []string) {
	m.Helper()
	for _, vdi := range m.vm.VDIs {
		content, err := os.ReadFile(m.simA.VDIPath(vdi))
		m.must(err)
		contents = append(contents, string(content))
	}
	return contents
}

// holds checks that the replica holds what the source's disks held.
func (m *matrix) holds(contents []string) {
	m.Helper()
	for i, want := range contents {
		got, err := os.ReadFile(m.replicaPath(i))
		m.must(err)
		if string(got[:len(want)]) != want {
			m.Errorf("disk %d of the replica is not what it has to be", i)
		}
	}
}

func (m *matrix) lastRun() state.Run {
	m.Helper()
	runs, err := m.store.Runs(m.Context(), 1)
	m.must(err)
	return runs[0]
}

// first kills runs that make the replica.
func (m *matrix) first() {
	borders := []string{"after a: VDI.enable_cbt 1", "before b: VM.create 1", "after b: VM.create 1", "after b: VDI.create 2", "after mark dirty"}
	for i, border := range borders {
		m.dieAt(border)
		outcome, then := rolledBack, "gc"
		if i < len(borders)-1 {
			m.recover()
			m.tidy(0)
		} else {
			then = "again"
			before := m.lastRun().Report.ID
			if run := m.replicate(); run.ID == before {
				outcome = resumed
			}
			m.equal()
			m.tidy(1)
		}
		when, step, _ := strings.Cut(border, " ")
		m.tell("first", when, step, then, outcome)
	}
}

// replications kills runs that bring the replica up to date.
func (m *matrix) replications() {
	m.change()
	m.each("replicate", m.borders(), func(border string, gc bool) string {
		m.change()
		snapshot, points := m.sources(), m.points()
		last := m.content(points[0])
		m.dieAt(border)
		dead := m.lastRun().Report
		m.change() // what a run that goes on has no part in
		done := m.record().Disks[0].State.String() == "clean:"+dead.Generation
		if !gc {
			run := m.replicate()
			outcome := rolledBack
			switch {
			case run.ID == dead.ID:
				outcome = resumed
				m.holds(snapshot)
			case done:
				outcome = committed
				m.equal()
			default:
				m.equal()
			}
			m.tidy(min(len(points)+1+map[bool]int{true: 1}[done], replication.DefaultRetention))
			return outcome
		}
		m.recover()
		now := m.points()
		if run, err := m.store.Run(m.Context(), dead.ID); err != nil || run.Report.State != report.StateInterrupted && border != "after store the end" {
			m.Errorf("the run is %s, %v", run.Report.State, err)
		}
		_, vm := m.replicaVM()
		if done {
			m.tidy(len(now))
			if m.content(now[0]) == last || m.content(vm) != m.content(now[0]) {
				m.Error("the replica is not what its last restore point is")
			}
			m.holds(snapshot)
			return committed
		}
		m.tidy(len(points))
		if m.content(now[0]) != last {
			m.Error("the last restore point changed")
		}
		if !m.record().Disks[0].State.Dirty && m.content(vm) != last {
			m.Error("the replica is said to be its last restore point, and is not")
		}
		return rolledBack
	})
	m.replicate()
	m.change()
	m.replicate()
	m.equal()
}

// exports kills runs by the standard method: at borders, and in the middle of an import. None goes on.
func (m *matrix) exports() {
	method := methodVariable + "=" + string(report.Standard)
	m.request.Method = report.Standard
	defer func() { m.request.Method = "" }()
	borders := []string{inAnImport, "after mark dirty", "after copy", "after b: VM.snapshot 1"}
	if *wholeMatrix {
		borders = append([]string{inAnImport}, m.borders(method)...)
	}
	for i, border := range borders {
		m.change()
		points := m.points()
		last := m.content(points[0])
		if border == inAnImport {
			before := m.simB.Calls(importing)
			m.killWhen(border, func() bool { return m.simB.Calls(importing) > before+3 }, method, limitVariable+"=1MiB/s")
		} else {
			m.dieAt(border, method)
		}
		dead := m.lastRun().Report
		m.change()
		done := m.record().Disks[0].State.String() == "clean:"+dead.Generation
		outcome, then := rolledBack, "gc"
		if done {
			outcome = committed
		}
		if i%2 == 0 {
			m.recover()
		} else {
			then = "again"
			if run := m.replicate(); run.ID == dead.ID {
				m.Error("a copy went on")
			}
			m.equal()
		}
		if points := m.points(); !done && i%2 == 0 && m.content(points[0]) != last {
			m.Error("the last restore point changed")
		}
		m.tidy(len(m.points()))
		when, step, _ := strings.Cut(border, " ")
		m.tell("standard", when, step, then, outcome)
	}
	m.replicate()
	m.equal()
}

// inAnImport is no border: the disks are being imported.
const inAnImport = "while importing"

func (m *matrix) stateOf(point xapi.VM) manifest.State {
	m.Helper()
	marker, _, err := replica.Read(m.store.Installation().UUID, point.UUID, point.OtherConfig)
	m.must(err)
	return marker.State
}

// reverts kills reverts, to and fro.
func (m *matrix) reverts() {
	points := m.points()
	contents := []string{m.content(points[0]), m.content(points[1])}
	at := 0
	to := func() string { return revertVariable + "=" + points[1-at].UUID }
	listed := m.borders(to())
	at = 1
	m.each("revert", listed, func(border string, gc bool) string {
		m.dieAt(border, to())
		now := m.record().Disks[0].State
		begun, done := now.Dirty, now == m.stateOf(points[1-at])
		if gc {
			m.recover()
		} else {
			m.revert(points[1-at].UUID)
		}
		outcome := rolledBack
		switch {
		case done:
			outcome = committed
		case begun || !gc:
			outcome = resumed
		}
		if outcome != rolledBack {
			at = 1 - at
		}
		m.isAt(points[at], contents[at])
		m.tidy(len(points))
		return outcome
	})
	m.replicate()
	m.equal()
}
