package replication_test

import (
	"time"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// tests kills tests of a restore point. Nothing of the clone stays, the replica and its restore points are as they were, and a trusted run trusts.
func (m *matrix) tests() {
	chore := choreVariable + "=" + string(state.RunRehearse)
	m.replicate()
	points := len(m.points())
	m.each("test", m.borders(chore), func(border string, gc bool) string {
		point := m.points()[0]
		before := m.content(point)
		ref, err := xapi.GetByUUID(m.Context(), m.b.API, "VM", point.UUID)
		m.must(err)
		m.must(m.b.API.Call(m.Context(), "VM.remove_from_other_config", nil, ref, replica.KeyVerdict))
		m.dieAt(border, chore)
		outcome := rolledBack
		if m.points()[0].OtherConfig[replica.KeyVerdict] != "" {
			outcome = committed
		}
		if gc {
			m.recover()
		} else if test := m.test(replication.TestRequest{Auto: true}); test.Found == nil || test.Found.Outcome != replica.Booted {
			m.Errorf("tested again it is %+v", test.Found)
		}
		m.tidy(points)
		if m.content(m.points()[0]) != before {
			m.Error("the restore point changed")
		}
		return outcome
	})
	if run := m.replicate(); run.Disks[0].Mode != report.Trusted {
		m.Errorf("the run after the tests is %s: %s", run.Disks[0].Mode, run.Disks[0].Cause)
	}
	m.equal()
}

// endTest is a chore that is no run of its own.
const endTest = "end-test"

// endsOfTests kills the ends of tests that were left to the administrator. Until an end has begun the clone stands, afterwards gc finishes it.
func (m *matrix) endsOfTests() {
	chore, points := choreVariable+"="+endTest, len(m.points())
	m.test(replication.TestRequest{})
	m.each("end test", m.borders(chore), func(border string, gc bool) string {
		m.test(replication.TestRequest{})
		m.dieAt(border, chore)
		if gc {
			m.recover()
		}
		outcome := committed
		if len(m.details().Tests) > 0 {
			outcome = rolledBack
			if _, err := m.engine.EndTest(m.Context(), replication.EndTestRequest{Replica: m.record().ID, Target: m.b}); err != nil {
				m.Errorf("once more: %v", err)
			}
		}
		m.tidy(points)
		return outcome
	})
}

// test tests a restore point, which must be possible.
func (w *world) test(request replication.TestRequest) replication.Test {
	w.Helper()
	request.Replica, request.Target = w.record().ID, w.b
	if request.Steady == 0 {
		request.Steady = time.Millisecond
	}
	test, err := w.engine.Test(w.Context(), request)
	if err != nil {
		w.Fatalf("test: %v\nevents: %v", err, test.Run.Events)
	}
	return test
}
