package replication_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// make calls what makes an object.
func (w *world) make(api xapi.API, method string, args ...any) xapi.Ref {
	w.Helper()
	var ref string
	w.must(api.Run(w.Context(), method, &ref, args...))
	return xapi.Ref(ref)
}

// named gives a run that ended an object whose making was never answered: it is looked for by this name.
func (w *world) named() string {
	w.Helper()
	run, err := w.store.BeginRun(w.Context(), w.record().ID, state.RunReplicate, report.Run{Direction: report.Push, Trust: report.TrustVerify})
	w.must(err)
	object, err := w.store.RecordIntent(w.Context(), state.Object{
		Run: run.Report.ID, Pool: w.poolUUID("a"), Class: "VM", Kind: string(replica.KindSnapshot), Origin: w.vm.UUID,
	})
	w.must(err)
	run.Report.State, run.Report.Finished = report.StateFailed, time.Now()
	w.must(w.store.SaveReport(w.Context(), run.Report))
	return object.Name
}

// TestCollectorIsTimid has users take, copy and name things as ours are. A dry run foretells what gc does, and changes nothing.
func TestCollectorIsTimid(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib, 4 * mib}})
	w.replicate()
	replicaRef, _ := w.replicaVM()
	disk, err := xapi.GetByUUID(t.Context(), w.b.API, "VDI", w.record().Disks[0].TargetVDI)
	w.must(err)
	strangers := map[*delegate.Pool]map[string][]xapi.Ref{
		w.b: {
			"VM":  {w.make(w.b.API, "VM.clone", replicaRef, "a user's clone of the replica")},
			"VDI": {w.make(w.b.API, "VDI.copy", disk, w.srRef("target"))},
		},
		w.a: {},
	}
	name := w.named()
	carrier := w.make(w.a.API, "VM.clone", xapi.Ref(w.vm.Ref), name)
	w.dieAt("after mark dirty")

	for ref := range w.delegates(w.b) {
		w.must(w.b.API.Run(t.Context(), "VM.hard_shutdown", nil, ref))
		strangers[w.b]["VM"] = append(strangers[w.b]["VM"], w.make(w.b.API, "VM.clone", ref, "a clone of a delegate"))
	}
	vms, err := xapi.AllRecords[xapi.VM](t.Context(), w.a.API, "VM")
	w.must(err)
	for ref, vm := range vms {
		if vm.SnapshotOf == xapi.Ref(w.vm.Ref) {
			w.must(w.a.API.Run(t.Context(), "VM.revert", nil, ref))
		}
	}
	strangers[w.a]["VM"] = []xapi.Ref{xapi.Ref(w.vm.Ref), carrier}
	held := w.clones()[0]
	w.attach(w.a.API, carrier, held, "9")

	// Of what strangers hold, the disks count too.
	for pool, classes := range strangers {
		for _, ref := range classes["VM"] {
			vm, err := xapi.GetRecord[xapi.VM](t.Context(), pool.API, "VM", ref)
			w.must(err)
			disks, err := xapi.AllRecords[xapi.VBD](t.Context(), pool.API, "VBD")
			w.must(err)
			for at, vbd := range disks {
				if slices.Contains(vm.VBDs, at) && vbd.Type == xapi.TypeDisk {
					classes["VDI"] = append(classes["VDI"], vbd.VDI)
				}
			}
		}
	}
	before := []map[string]int{w.simA.AllCalls(), w.simB.AllCalls()}
	foretold, err := w.engine.Preview(t.Context(), w.a, w.b)
	w.must(err)
	for i, after := range []map[string]int{w.simA.AllCalls(), w.simB.AllCalls()} {
		for method, calls := range after {
			if calls != before[i][method] && !strings.Contains(method, ".get_") && !strings.Contains(method, ".compute_") && !strings.HasPrefix(method, "session.") && !strings.HasPrefix(method, "event.") && method != "connection" {
				t.Errorf("the dry run called %s", method)
			}
		}
	}
	if again, err := w.engine.Preview(t.Context(), w.a, w.b); err != nil || len(again.Runs) != len(foretold.Runs) {
		t.Errorf("the next dry run foretells %d runs, not %d, %v", len(again.Runs), len(foretold.Runs), err)
	}

	recovered, err := w.engine.Recover(t.Context(), w.a, w.b)
	if !errors.Is(err, replication.ErrStranger) || len(recovered) != 2 {
		t.Errorf("%d runs were recovered, %v", len(recovered), err)
	}
	var would, left, did []string
	for _, p := range foretold.Runs {
		for _, o := range p.Remove {
			would = append(would, o.Name)
		}
		for _, l := range p.Leave {
			if left = append(left, l.Object.Name); !errors.Is(l.Cause, replication.ErrStranger) {
				t.Errorf("%s stays for %v", l.Object.Name, l.Cause)
			}
		}
	}
	for _, r := range recovered {
		for _, o := range r.Undone {
			did = append(did, o.Name)
		}
	}
	slices.Sort(would)
	slices.Sort(did)
	if !slices.Equal(would, did) || len(would) < 4 {
		t.Errorf("foretold %q, removed %q", would, did)
	}
	if len(left) != 2 || !slices.Contains(left, name) {
		t.Errorf("what stays: %q", left)
	}
	for pool, classes := range strangers {
		for class, refs := range classes {
			for _, ref := range refs {
				var uuid string
				if err := pool.API.Call(t.Context(), class+".get_uuid", &uuid, ref); err != nil {
					t.Errorf("pool %s: a stranger's %s is gone: %v", pool.Name, class, err)
				}
			}
		}
	}
}

// clones are the uuids of the temporary clones of the source's disks.
func (w *world) clones() (uuids []string) {
	w.Helper()
	vdis, err := xapi.AllRecords[xapi.VDI](w.Context(), w.a.API, "VDI")
	w.must(err)
	for _, vdi := range vdis {
		if marker, owner, _ := replica.Read(w.store.Installation().UUID, vdi.UUID, vdi.OtherConfig); owner == replica.Ours && marker.Kind == replica.KindClone {
			uuids = append(uuids, vdi.UUID)
		}
	}
	return uuids
}

func (w *world) srRef(name string) xapi.Ref {
	w.Helper()
	var refs []xapi.Ref
	w.must(w.b.API.Call(w.Context(), "SR.get_by_name_label", &refs, name))
	return refs[0]
}
