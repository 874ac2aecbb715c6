package runner_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/runner"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func TestSelectors(t *testing.T) {
	w := newWorld(t, 19, "web-1", "web-2", "db")
	disks := []xapisim.DiskConfig{{Size: 4 * mib, SR: "source"}}
	ours, foreign := w.store.Installation().UUID, "c0ffee00-0000-4000-8000-000000000000"
	marked := func(installation, kind, self string) map[string]string {
		marker := map[string]string{"understudy:installation": installation, "understudy:kind": kind, "understudy:run": "r"}
		if self != "" {
			marker["understudy:self"] = self
		}
		return marker
	}
	for name, config := range map[string]map[string]string{
		"copy of a replica":   marked(ours, "replica", foreign), // somebody's VM
		"reverted":            marked(ours, "snapshot", foreign),
		"half made":           marked(ours, "replica", ""),
		"delegate being made": marked(ours, "delegate-template", foreign),
	} {
		_, err := w.sim.AddVM(xapisim.VMConfig{Name: name, Disks: disks, OtherConfig: config})
		w.must(err)
	}
	for name, installation := range map[string]string{"our replica": ours, "replica of others": foreign} {
		added, err := w.sim.AddVM(xapisim.VMConfig{Name: name, Disks: disks, Tags: []string{"gold"}})
		w.must(err)
		ref, err := xapi.GetByUUID(t.Context(), w.pool.API, "VM", added.UUID)
		w.must(err)
		for key, value := range marked(installation, "replica", added.UUID) {
			w.must(xapi.SetOtherConfigKey(t.Context(), w.pool.API, "VM", ref, key, value))
		}
		w.vms[name] = added.UUID
	}
	_, err := w.sim.AddVM(xapisim.VMConfig{Name: "mail", Disks: disks, Tags: []string{"gold"}})
	w.must(err)
	db, err := xapi.GetByUUID(t.Context(), w.pool.API, "VM", w.vms["db"])
	w.must(err)
	w.must(w.pool.API.Call(t.Context(), "VM.snapshot", new(xapi.Ref), db, "db of yesterday"))
	template := ""
	vms, err := xapi.AllRecords[xapi.VM](t.Context(), w.pool.API, "VM")
	w.must(err)
	for _, vm := range vms {
		if vm.IsATemplate && !vm.IsASnapshot {
			template = vm.UUID
		}
	}

	const warning, severe = report.SeverityWarning, report.SeverityError
	cases := map[string]struct {
		selectors []string
		want      []string
		findings  map[string]report.Severity
	}{
		"everything":         {[]string{"*"}, []string{"copy of a replica", "db", "mail", "reverted", "web-1", "web-2"}, nil},
		"names":              {[]string{"db", "uuid:" + w.vms["web-2"]}, []string{"db", "web-2"}, nil},
		"twice":              {[]string{"web-?", "web-1"}, []string{"web-1", "web-2"}, nil},
		"tag":                {[]string{"tag:gold"}, []string{"mail"}, nil},
		"excluded":           {[]string{"web-*", "tag:gold", "!web-1", "!pattern:tmp*"}, []string{"mail", "web-2"}, nil},
		"a name that is not": {[]string{"db", "bd", "!bd"}, []string{"db"}, map[string]report.Severity{"selector name:bd": severe, "selector !name:bd": warning}},
		"a pattern of none":  {[]string{"db", "x*"}, []string{"db"}, map[string]report.Severity{"selector pattern:x*": warning}},
		"nothing":            {[]string{"tag:none"}, nil, map[string]report.Severity{"selector tag:none": warning, "pool a": severe}},
		"a replica":          {[]string{"db", "uuid:" + w.vms["our replica"]}, []string{"db"}, map[string]report.Severity{"selector uuid:" + w.vms["our replica"]: severe}},
		"a replica of others": {[]string{"db", "replica of others"}, []string{"db"},
			map[string]report.Severity{"selector name:replica of others": severe}},
		"a template": {[]string{"db", template}, []string{"db"}, map[string]report.Severity{"selector uuid:" + template: severe}},
		"a snapshot": {[]string{"db", "db of yesterday"}, []string{"db"}, map[string]report.Severity{"selector name:db of yesterday": severe}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w.change(func(d *job.Definition) {
				d.VMs = nil
				for _, text := range c.selectors {
					s, err := job.ParseSelector(text)
					w.must(err)
					d.VMs = append(d.VMs, s)
				}
			})
			check, err := w.runner.Check(t.Context(), w.job)
			w.must(err)
			var names []string
			for _, vm := range check.VMs {
				names = append(names, vm.VM.Name)
			}
			if diff := cmp.Diff(c.want, names); diff != "" {
				t.Errorf("chosen (-want +got):\n%s", diff)
			}
			found := map[string]report.Severity{}
			for _, f := range check.Findings {
				found[f.Subject] = f.Severity
				if f.Code == "" || f.Cause == "" || f.Mend == "" {
					t.Errorf("finding %+v", f)
				}
			}
			if len(found) != len(c.findings) || len(found) > 0 && !cmp.Equal(found, c.findings) {
				t.Errorf("findings %+v, want %v", check.Findings, c.findings)
			}
			resolved, err := w.runner.Resolve(t.Context(), w.job)
			if err != nil || len(resolved) != len(c.want) {
				t.Errorf("resolved to %v, %v", resolved, err)
			}
		})
	}
}

func TestCheckTellsOfEachVM(t *testing.T) {
	w := newWorld(t, 19, "web", "db")
	w.fake.plan = func(vm string) error {
		if vm == w.vms["db"] {
			return &placement.Infeasible{Findings: []report.Finding{{Severity: report.SeverityError, Code: "space", Subject: "SR target", Cause: "full", Mend: "free some"}}}
		}
		return nil
	}
	w.change(func(d *job.Definition) { d.NamePattern = "standby" })
	check, err := w.runner.Check(t.Context(), w.job)
	w.must(err)
	if !slices.Equal(codes(check.Findings), []string{runner.CodeNamesAlike}) || len(check.VMs) != 2 {
		t.Fatalf("check %+v", check)
	}
	for _, vm := range check.VMs {
		bad := vm.VM.Name == "db"
		if (vm.Plan == nil) != bad || slices.Equal(codes(vm.Findings), []string{"space"}) != bad {
			t.Errorf("VM %s: %+v", vm.VM.Name, vm)
		}
	}

	w.runner.Connect = failing(errors.New("connection refused"))
	check, err = w.runner.Check(t.Context(), w.job)
	if err != nil || !slices.Equal(codes(check.Findings), []string{runner.CodePoolUnreachable}) {
		t.Errorf("a pool that does not answer: %+v, %v", check, err)
	}
	if run := w.run(report.StateFailed, runner.RunOptions{}); run.Error == "" || len(run.VMs) != 0 {
		t.Errorf("a run without its pools: %+v", run)
	}
}

func TestRequests(t *testing.T) {
	w := newWorld(t, 19, "web")
	w.change(func(d *job.Definition) {
		d.DiskSRs, d.Networks, d.NamePattern = map[string]string{"0": "source"}, map[string]string{"lan": "dmz"}, "{vm}-dr"
		d.Options = job.Options{Method: report.Standard, Direction: report.Pull, Trust: true, KeepTarget: true, NewMACs: true, ReadBack: "full",
			Retention: 7, RequireRestorePoint: true, DropVTPM: true, Consistency: report.ConsistencyPaused}
	})
	var got replication.Request
	w.fake.do = record(&got)
	run := w.run(report.StateCommitted, runner.RunOptions{})
	want := replication.Request{
		Source: got.Source, Target: got.Source, VM: w.vms["web"], SR: "target", DiskSRs: w.job.Definition.DiskSRs, Method: report.Standard, Direction: report.Pull, Trust: true,
		NetworkMap: w.job.Definition.Networks, NewMACs: true, NamePattern: "{vm}-dr", ReadBack: replication.ReadBackFull, JobRun: run.ID,
		Retention: 7, RequireRestorePoint: true, DropVTPM: true, Consistency: report.ConsistencyPaused,
	}
	if got.Source != got.Target || got.Source.Name != "a" || got.Source.Inventory != nil {
		t.Errorf("pools %+v, %+v: one, without the inventory of an earlier moment", got.Source, got.Target)
	}
	want.Source, want.Target, got.Source, got.Target = nil, nil, nil, nil
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(replication.Request{})); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
}
