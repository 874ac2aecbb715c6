package replication_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// finds checks what a request finds, and shows it.
func (w *world) finds(c broken) {
	w.Helper()
	undo := c.spoil(w)
	defer undo()
	plan, err := w.engine.Plan(w.Context(), w.request)
	found := append(replication.Findings(err), plan.Findings...)
	var got []string
	for _, f := range found {
		subject, _, _ := strings.Cut(f.Subject, " (")
		got = append(got, fmt.Sprintf("%s %s %s", f.Severity, f.Code, subject))
		w.Logf("%s: %s %s\n  %s\n  → %s", c.name, f.Severity, f.Code, f.Cause, f.Mend)
	}
	if text := strings.Join(got, ", "); text != c.want {
		w.Errorf("%s: found %q, want %q", c.name, text, c.want)
		return
	}
	if f := found[0]; f.Cause == "" || !strings.Contains(f.Mend, c.mend) {
		w.Errorf("%s: mend %q lacks %q", c.name, f.Mend, c.mend)
	}
	if (err != nil) != report.Errors(found) {
		w.Errorf("%s: %v", c.name, err)
	}
}

// TestFindings: every set-up with something amiss is told from every other by its code, and says what mends it.
func TestFindings(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	for _, c := range brokenSetUps {
		w.finds(c)
	}
	if plan, err := w.engine.Plan(t.Context(), w.request); err != nil || len(plan.Findings) != 0 {
		t.Errorf("with everything mended: %v, %v", plan.Findings, err)
	}
	// All at once, errors and warnings: nobody has to mend one to hear of the next.
	for _, c := range brokenSetUps {
		if slices.Contains([]string{"no addresses", "thin SR nearly full", "licence without VM.start", "snapshots blocked"}, c.name) {
			defer c.spoil(w)()
		}
	}
	w.request.NetworkMap = map[string]string{"Pool-wide network 0": "no such network"}
	_, err := w.engine.Replicate(t.Context(), w.request)
	codes := map[string]bool{}
	for _, f := range replication.Findings(err) {
		codes[f.Code] = true
	}
	for _, code := range []string{"no-addresses", "space", "licence", "snapshot-blocked", "network-unmapped"} {
		if !codes[code] {
			t.Errorf("%s is not among %v", code, codes)
		}
	}
	if strings.Contains(err.Error(), "no such network") {
		t.Errorf("a warning is told as an error: %v", err)
	}
}

// TestFindingsOfTheReplica: the same of one that is there.
func TestFindingsOfTheReplica(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	ref, record := w.replicaVM()
	nothing := func() {}
	for _, c := range []broken{
		{
			name: "not to be overwritten", want: "error replica-exists replica VM web", mend: "allow",
			spoil: func(w *world) func() {
				w.request.OverwriteTarget = false
				return func() { w.request.OverwriteTarget = true }
			},
		},
		{
			name: "disk wanted elsewhere", want: "warning disk-elsewhere disk 0 of the replica", mend: "moves no disk",
			spoil: func(w *world) func() {
				w.request.DiskSRs = map[string]string{"0": "images"}
				return func() { w.request.DiskSRs = nil }
			},
		},
		{
			name: "attached to a control domain", mend: "choose which copy counts",
			want: "error replica-diverged replica VM " + record.UUID + ", error held-by-control-domain disk 0 of the replica",
			spoil: func(w *world) func() {
				vms, err := xapi.AllRecords[xapi.VM](w.Context(), w.b.API, "VM")
				w.must(err)
				for dom0, vm := range vms {
					if vm.IsControlDomain {
						w.attach(w.b.API, dom0, w.record().Disks[0].TargetVDI, "5")
						return func() {
							var vbds []xapi.Ref
							w.must(w.b.API.Call(w.Context(), "VM.get_VBDs", &vbds, dom0))
							w.call(w.b.API, "VBD.destroy", vbds[0])
						}
					}
				}
				return nothing
			},
		},
		{
			name: "not ours", want: "error replica-stranger replica VM " + record.UUID, mend: "remove what stands in its place",
			spoil: func(w *world) func() {
				w.must(xapi.SetOtherConfigKey(w.Context(), w.b.API, "VM", ref, "understudy:self", w.vm.UUID))
				return func() {
					w.must(xapi.SetOtherConfigKey(w.Context(), w.b.API, "VM", ref, "understudy:self", record.UUID))
				}
			},
		},
		{
			name: "running", want: "error replica-running replica VM " + record.UUID, mend: "choose which copy counts",
			spoil: func(w *world) func() {
				w.call(w.b.API, "VM.set_blocked_operations", ref, map[string]string{})
				w.must(w.b.API.Run(w.Context(), "VM.start", nil, ref, false, false))
				return func() { w.must(w.b.API.Run(w.Context(), "VM.hard_shutdown", nil, ref)) }
			},
		},
		{
			name: "it has run", want: "error replica-diverged replica VM " + record.UUID, mend: "choose which copy counts",
			spoil: func(*world) func() { return nothing },
		},
	} {
		w.finds(c)
	}
	var held *replication.HeldError
	if _, err := w.engine.Replicate(t.Context(), w.request); !errors.As(err, &held) || !held.Diverged {
		t.Errorf("a run of it gave %v", err)
	}
}

// TestDisksOnSeveralSRs: a disk that is wanted on an SR of its own is made there, and replicated to.
func TestDisksOnSeveralSRs(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib, 4 * mib}})
	w.request.DiskSRs = map[string]string{"1": "images"}
	w.replicate()
	w.equal()
	for i, want := range []string{"target", "images"} {
		ref, err := xapi.GetByUUID(t.Context(), w.b.API, "VDI", w.record().Disks[i].TargetVDI)
		w.must(err)
		var sr xapi.Ref
		var name string
		w.must(w.b.API.Call(t.Context(), "VDI.get_SR", &sr, ref))
		w.must(w.b.API.Call(t.Context(), "SR.get_name_label", &name, sr))
		if name != want {
			t.Errorf("disk %d is on SR %s, not %s", i, name, want)
		}
	}
	w.write(w.simA.VDIPath(w.vm.VDIs[1]), mib, []byte("newer"))
	w.request.DiskSRs = nil // it stays where it is
	run := w.replicate()
	w.equal()
	if !hasEvent(run, replication.CodeDiskElsewhere) {
		t.Errorf("events %v", run.Events)
	}
	verified, err := w.engine.Verify(t.Context(), replication.VerifyRequest{Replica: w.record().ID, Target: w.b})
	if err != nil || !verified.Equal() || len(verified.Disks) != 2 {
		t.Errorf("verified %+v, %v", verified, err)
	}
	w.tidy(2)
}
