package replication_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// TestCBTEnds: what was kept for change tracking goes when nobody wants it any more, and what was switched on by us is switched off; a
// disk that somebody else had tracked stays so. What lost its name is found by gc, which leaves alone what only looks like it.
func TestCBTEnds(t *testing.T) {
	w := cbtWorld(t, layout{sizes: []int64{8 * mib, 4 * mib}})
	theirs, err := xapi.GetByUUID(t.Context(), w.a.API, "VDI", w.vm.VDIs[1])
	w.must(err)
	w.call(w.a.API, "VDI.enable_cbt", theirs)
	tracked := func() (on []bool) {
		for _, uuid := range w.vm.VDIs {
			ref, err := xapi.GetByUUID(t.Context(), w.a.API, "VDI", uuid)
			w.must(err)
			vdi, err := xapi.GetRecord[xapi.VDI](t.Context(), w.a.API, "VDI", ref)
			w.must(err)
			on = append(on, vdi.CBTEnabled)
		}
		return on
	}
	ended := func(what string) {
		t.Helper()
		if on := tracked(); !slices.Equal(on, []bool{false, true}) || len(w.cbtBases()) != 0 {
			t.Errorf("%s: tracked %v, bases %v", what, on, w.cbtBases())
		}
	}
	w.replicate()
	if !slices.Equal(tracked(), []bool{true, true}) {
		t.Errorf("tracked %v", tracked())
	}
	w.request.CBT = replication.CBTOff
	w.replicate()
	ended("without change tracking")

	w.request.CBT = replication.CBTOn
	w.replicate()
	w.oneBaseEach()
	source := w.a
	if _, err := w.engine.Detach(t.Context(), replication.DetachRequest{Replica: w.record().ID, Target: w.b, Source: source, RemoveRestorePoints: true}); err != nil {
		t.Fatal(err)
	}
	ended("detached")

	// The source's pool is away when the replica is detached. A user's snapshot bears what a base does, but for its name.
	w.request.NamePattern = "another"
	w.replicate()
	base := w.cbtBases()[0]
	copied := w.make(w.a.API, "VDI.snapshot", theirs, map[string]string{})
	for key, value := range base.OtherConfig {
		w.must(xapi.SetOtherConfigKey(t.Context(), w.a.API, "VDI", copied, key, value))
	}
	if _, err := w.engine.Detach(t.Context(), replication.DetachRequest{Replica: w.record().ID, Target: w.b, RemoveRestorePoints: true}); err != nil {
		t.Fatal(err)
	}
	before := w.simA.AllCalls()
	foretold, err := w.engine.CollectBases(t.Context(), true, w.a, w.b)
	w.must(err)
	for method, calls := range w.simA.AllCalls() {
		if calls != before[method] && (strings.HasPrefix(method, "Async.") || strings.Contains(method, ".destroy") || strings.Contains(method, ".disable")) {
			t.Errorf("the dry run called %s", method)
		}
	}
	removed, err := w.engine.CollectBases(t.Context(), false, w.a, w.b)
	if err != nil || len(removed) != 2 || !slices.Equal(removed, foretold) {
		t.Errorf("removed %v, %v; foretold %v", removed, err, foretold)
	}
	ended("collected")
	if err := w.a.API.Call(t.Context(), "VDI.get_uuid", nil, copied); err != nil {
		t.Errorf("a user's snapshot is gone: %v", err)
	}

	// A state database of yesterday names a base that is no more, and knows nothing of the one that is there.
	w.request.NamePattern = "a third"
	w.replicate()
	restore := w.restoreState()
	run := w.replicate()
	if restore != nil {
		restore()
	}
	w.equal()
	if !hasEvent(run, "cbt-base-gone") && !hasEvent(run, "cbt-generation") {
		t.Errorf("with yesterday's state: %v", run.Events)
	}
	w.oneBaseEach()
}

// TestNothingNeedsALicence: a target whose licence has nothing, and a source without change tracking, take a first copy, a trusted run, a
// revert and the run after it. What starts delegates is found before anything is done where even that is forbidden.
func TestNothingNeedsALicence(t *testing.T) {
	w := cbtWorld(t, layout{sizes: []int64{4 * mib}})
	var restricted []string
	for _, feature := range xapisim.Features() {
		if feature != "VM_start" {
			restricted = append(restricted, feature)
		}
	}
	w.must(w.simB.Restrict(restricted...))
	w.must(w.simA.Restrict("CBT"))
	var flags []map[string]string
	pools, err := xapi.AllRecords[xapi.Pool](t.Context(), w.b.API, "pool")
	w.must(err)
	for _, p := range pools {
		flags = append(flags, p.Restrictions)
	}
	if len(flags) != 1 || flags[0]["restrict_cbt"] != "true" || flags[0]["restrict_checkpoint"] != "true" || flags[0]["enable_xha"] != "false" {
		t.Fatalf("restrictions %v", flags)
	}
	w.whole(w.replicate(), "cbt-unavailable", "licence")
	first := w.points()[0].UUID
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 1*mib, []byte("changed"))
	run := w.replicate()
	if d := run.Disks[0]; d.Mode != report.Trusted || d.Rung != string(replica.RungEmptyLeaf) {
		t.Errorf("mode %s at rung %s: %s", d.Mode, d.Rung, d.Cause)
	}
	w.equal()
	w.revert(first)
	if d := w.replicate().Disks[0]; d.Mode != report.Trusted {
		t.Errorf("after the revert: mode %s at rung %s: %s", d.Mode, d.Rung, d.Cause)
	}
	w.equal()
	w.tidy(3)

	w.must(w.simB.Restrict(xapisim.Features()...))
	before := w.simB.AllCalls()
	run, err = w.engine.Replicate(t.Context(), w.request)
	var infeasible *placement.Infeasible
	if !errors.As(err, &infeasible) || run.ID != "" || !slices.ContainsFunc(infeasible.Findings, func(f report.Finding) bool { return f.Code == placement.CodeLicence }) {
		t.Errorf("without VM.start run %q ended with %v", run.ID, err)
	}
	for _, method := range slices.Sorted(maps.Keys(w.simB.AllCalls())) {
		if strings.HasPrefix(method, "Async.") && w.simB.AllCalls()[method] != before[method] {
			t.Errorf("it called %s", method)
		}
	}
}
