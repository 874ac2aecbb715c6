package replication_test

import (
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// few leaves out, without -matrix, the borders before a step: there things are as after the step before it.
func few(borders []string) []string {
	if *wholeMatrix {
		return borders
	}
	return slices.DeleteFunc(borders, func(border string) bool { return strings.HasPrefix(border, "before ") })
}

// now is the state that the replica is in.
func (m *matrix) now() replica.Failover {
	m.Helper()
	now := replica.Failover(m.record().Failover.State)
	if !now.Valid() {
		m.Errorf("the replica is %q", now)
	}
	return now
}

// notBoth checks that the source and the replica do not both run.
func (m *matrix) notBoth() {
	m.Helper()
	_, source := m.sourceVM()
	_, vm := m.replicaVM()
	if source.PowerState == xapi.Running && vm.PowerState == xapi.Running {
		m.Error("source and replica both run")
	}
}

// failovers kills failovers to a restore point that the replica has to be reverted to, to and fro. From wherever they were cut the verb goes on,
// or the undo leads back.
func (m *matrix) failovers() {
	points := m.points()
	contents := []string{m.content(points[0]), m.content(points[1])}
	at := 0
	chore := func() []string {
		return []string{choreVariable + "=" + string(state.RunFailover), revertVariable + "=" + points[1-at].UUID}
	}
	listed := m.borders(chore()...)
	m.undo(m.a)
	at = 1
	m.each("failover", few(listed), func(border string, gc bool) string {
		to := 1 - at
		m.dieAt(border, chore()...)
		now := m.now()
		outcome := resumed
		if now == replica.FailedOver {
			outcome = committed
		}
		if gc {
			m.recover()
			if now != m.now() {
				m.Errorf("gc made %s of %s", m.now(), now)
			}
		} else if now != replica.FailedOver {
			request := m.failover()
			request.Point = points[to].UUID
			m.failsOver(request)
		}
		if m.now() == replica.FailedOver {
			if vm := m.standsIn(replica.FailedOver, xapi.Running); m.content(vm) != contents[to] {
				m.Error("the replica does not do the work from its restore point on")
			}
			m.works("in vain " + border)
		}
		if m.now() == replica.Standby {
			m.standsBy()
			return rolledBack
		}
		m.undo(m.a)
		m.standsBy()
		_, vm := m.replicaVM()
		if at = slices.Index(contents, m.content(vm)); at < 0 {
			m.Fatal("after the undo the replica is none of its restore points")
		}
		m.tidy(len(points))
		if gc && outcome == resumed {
			return rolledBack
		}
		return outcome
	})
	m.change()
	m.replicate()
	m.equal()
}

// undos kills undos, which are done when they are repeated.
func (m *matrix) undos() {
	chore := choreVariable + "=" + string(state.RunUndo)
	point := m.points()[0]
	content := m.content(point)
	m.failsOver(m.failover())
	listed := m.borders(chore)
	m.each("undo", few(listed), func(border string, gc bool) string {
		m.failsOver(m.failover())
		m.works("in vain " + border)
		m.dieAt(border, chore)
		if gc {
			m.recover()
		}
		outcome := committed
		if now := m.now(); now != replica.Standby {
			outcome = resumed
			if now != replica.Undoing && now != replica.FailedOver {
				m.Errorf("an undo left it %s", now)
			}
			m.undo(m.a)
		}
		m.standsBy()
		m.isAt(point, content)
		return outcome
	})
	m.change()
	m.replicate()
	m.equal()
}

// plannedFailovers kills failovers that shut the source down. Source and replica never both run, and the source is shut down, or runs again.
func (m *matrix) plannedFailovers() {
	chore := choreVariable + "=" + plannedFailover
	m.starts()
	borders := []string{"after record the planned failover", "after commit again"}
	if *wholeMatrix {
		// The calls of its two runs are those of the others.
		borders = slices.DeleteFunc(m.borders(chore), func(border string) bool {
			return strings.Contains(border, ": ") && !strings.Contains(border, "shutdown") && !strings.Contains(border, "VM.start ")
		})
		m.undo(m.a)
	}
	for i, border := range borders {
		gc := i%2 == 1
		m.change()
		m.waitForDrivers()
		m.dieAt(border, chore)
		m.notBoth()
		now := m.now()
		if gc {
			m.recover()
		}
		outcome := committed
		switch {
		case now == replica.FailedOver:
		case gc && now != replica.Standby:
			outcome = rolledBack
		default:
			outcome = resumed
			request := m.failover()
			request.Planned, request.Source, request.Sync = true, m.a, m.request
			m.failsOver(request)
		}
		if outcome != rolledBack {
			m.standsIn(replica.FailedOver, xapi.Running)
			m.sourceIs(xapi.Halted, true)
			m.equal()
		}
		m.notBoth()
		m.undo(m.a)
		m.standsBy()
		m.sourceIs(xapi.Running, false)
		when, step, _ := strings.Cut(border, " ")
		m.tell("planned", when, step, map[bool]string{false: "again", true: "gc"}[gc], outcome)
	}
	ref, _ := m.sourceVM()
	m.must(m.a.API.Run(m.Context(), "VM.hard_shutdown", nil, ref))
	m.replicate()
	m.equal()
}
