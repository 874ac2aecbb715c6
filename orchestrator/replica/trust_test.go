package replica_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

var (
	clean      = manifest.State{Generation: generation}
	dirty      = manifest.State{Dirty: true, Generation: generation}
	otherClean = manifest.State{Generation: manifest.Generation{5}}
	keyID      = manifest.KeyID{1}
	commitTime = time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)
)

// sound is evidence in which every rung holds.
func sound() replica.Evidence {
	disk := func(number string) replica.DiskEvidence {
		return replica.DiskEvidence{
			Disk: number, RecordedState: clean, RecordedVDI: "vdi-" + number, RecordedSize: 1000, ManifestKey: keyID, ManifestSize: 1000,
			Ownership: replica.Ours, Marker: replica.Marker{Kind: replica.KindReplicaDisk, State: clean, Disk: number},
			VDI: "vdi-" + number, Size: 2 << 20,
		}
	}
	return replica.Evidence{
		Option: report.TrustDestination, Direction: report.Push, KeyID: keyID,
		VM: replica.VMEvidence{
			Ownership: replica.Ours, Marker: replica.Marker{Kind: replica.KindReplica, State: clean, Source: "source"}, Source: "source",
			PowerState: "Halted", StartTime: commitTime.Add(-time.Hour), LastCommit: commitTime,
		},
		Disks:  []replica.DiskEvidence{disk("0"), disk("1")},
		Leaves: []replica.LeafEvidence{{Disk: "0"}, {Disk: "1"}},
	}
}

func TestTrustWhenAllHolds(t *testing.T) {
	want := replica.Decision{Mode: report.Trusted, Rung: replica.RungEmptyLeaf, Writable: true, Cause: "every rung holds"}
	never, accepted := sound(), sound()
	never.VM.StartTime = time.Time{}
	accepted.VM.StartTime = commitTime.Add(time.Second)
	accepted.VM.AcceptedStart = accepted.VM.StartTime
	for name, e := range map[string]replica.Evidence{"started before the commit": sound(), "never started": never, "a start that was accepted": accepted} {
		if !replica.Consistent(e) {
			t.Errorf("%s: not consistent", name)
		}
		if diff := cmp.Diff(want, replica.Trust(e)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Before the run nobody looks at the leaves.
func TestTrustBeforeTheLeavesAreTested(t *testing.T) {
	e := sound()
	e.Leaves = nil
	d := replica.Trust(e)
	if d.Mode != report.Trusted || !d.Writable || d.Rung != replica.RungForeign || d.Untested != replica.RungEmptyLeaf || !strings.Contains(d.Cause, "empty-leaf") {
		t.Errorf("decided %+v", d)
	}
}

// Where one delegate has the disks of both sides nobody dials, and there is no pull that trust could be wanting for.
func TestTrustWhereNobodyDials(t *testing.T) {
	e := sound()
	e.Direction = ""
	if d := replica.Trust(e); d.Mode != report.Trusted || d.Rung != replica.RungEmptyLeaf {
		t.Errorf("decided %+v", d)
	}
}

// unfinished makes of sound evidence that of a run which ended badly.
func unfinished(e *replica.Evidence) {
	e.Unfinished, e.VM.Marker.State = &replica.UnfinishedEvidence{}, dirty
	for i := range e.Disks {
		e.Disks[i].RecordedState, e.Disks[i].Marker.State = dirty, dirty
	}
}

func TestTrustAfterARunThatDidNotCommit(t *testing.T) {
	e := sound()
	unfinished(&e)
	if d := replica.Trust(e); d.Mode != report.Trusted || !d.Unfinished || !strings.Contains(d.Cause, "did not commit") {
		t.Errorf("decision %+v", d)
	}
	e.Option = report.TrustVerify
	if d := replica.Trust(e); d.Mode != report.Untrusted || d.Rung != replica.RungOption {
		t.Errorf("without the option: %+v", d)
	}
}

type spoiled struct {
	spoil func(*replica.Evidence)
	rung  replica.Rung
	cause string // part of it
}

// Each case spoils sound evidence in one way.
var spoiledEvidence = map[string]spoiled{
	"written": {func(e *replica.Evidence) { e.Leaves[1].Foreign = "a block" }, replica.RungEmptyLeaf, "disk 1 was written"},
	"written, and not to be trusted": {func(e *replica.Evidence) {
		e.Leaves[0].Foreign, e.Option = "a block", report.TrustVerify
	}, replica.RungEmptyLeaf, "disk 0 was written"},
	"untested":   {func(e *replica.Evidence) { e.Leaves[1].Against = "the SR is raw" }, replica.RungEmptyLeaf, "the SR is raw"},
	"distrusted": {func(e *replica.Evidence) { e.Distrusted = true }, replica.RungOption, "an administrator"},
	"started after a start that was accepted": {func(e *replica.Evidence) {
		e.VM.AcceptedStart, e.VM.StartTime = commitTime.Add(time.Minute), commitTime.Add(2*time.Minute)
	}, replica.RungPower, "2026-03-01T22:02:00Z"},

	"VM without marker":   {func(e *replica.Evidence) { e.VM.Ownership = replica.None }, replica.RungOwnership, "the replica VM bears no marker"},
	"VM is a copy":        {func(e *replica.Evidence) { e.VM.Ownership = replica.Stranger }, replica.RungOwnership, "a copy"},
	"VM marker malformed": {func(e *replica.Evidence) { e.VM.Ownership = replica.Malformed }, replica.RungOwnership, "cannot be read"},
	"ownership not read":  {func(e *replica.Evidence) { e.VM.Ownership = "" }, replica.RungOwnership, "cannot be read"},
	"disk is a copy":      {func(e *replica.Evidence) { e.Disks[1].Ownership = replica.Stranger }, replica.RungOwnership, "disk 1"},
	"disk without marker": {func(e *replica.Evidence) { e.Disks[0].Ownership = replica.None }, replica.RungOwnership, "disk 0"},
	"VM of another kind":  {func(e *replica.Evidence) { e.VM.Marker.Kind = replica.KindRestorePoint }, replica.RungOwnership, "restore-point"},
	"disk of another kind": {func(e *replica.Evidence) { e.Disks[0].Marker.Kind = replica.KindClone }, replica.RungOwnership,
		"marked as a clone"},
	"VM of another source": {func(e *replica.Evidence) { e.VM.Marker.Source = "other" }, replica.RungOwnership, "a copy of VM other"},
	"disks exchanged":      {func(e *replica.Evidence) { e.Disks[0].Marker.Disk = "1" }, replica.RungOwnership, "marked as disk 1"},
	"another VDI":          {func(e *replica.Evidence) { e.Disks[1].VDI = "vdi-x" }, replica.RungOwnership, "vdi-x"},

	"running":   {func(e *replica.Evidence) { e.VM.PowerState = "Running" }, replica.RungPower, "Running"},
	"suspended": {func(e *replica.Evidence) { e.VM.PowerState = "Suspended" }, replica.RungPower, "Suspended"},
	"unknown":   {func(e *replica.Evidence) { e.VM.PowerState = "" }, replica.RungPower, "replica is"},
	"started since": {func(e *replica.Evidence) { e.VM.StartTime = commitTime.Add(time.Second) }, replica.RungPower,
		"2026-03-01T22:00:01Z"},
	"started by a clock that is late": {func(e *replica.Evidence) { e.VM.StartTime = commitTime.Add(-time.Minute) }, replica.RungPower,
		"another host"},
	"started in the same second":      {func(e *replica.Evidence) { e.VM.StartTime = commitTime }, replica.RungPower, "started"},
	"started before the first commit": {func(e *replica.Evidence) { e.VM.LastCommit = time.Time{} }, replica.RungPower, "never"},

	"a writer": {func(e *replica.Evidence) {
		e.Disks[1].ForeignVBDs = []replica.ForeignVBD{{VM: "reader"}, {VM: "thief", Writable: true}}
	}, replica.RungWriters, "thief holds disk 1"},

	"option":         {func(e *replica.Evidence) { e.Option = report.TrustVerify }, replica.RungOption, "not asked"},
	"no option":      {func(e *replica.Evidence) { e.Option = "" }, replica.RungOption, "not asked"},
	"pull":           {func(e *replica.Evidence) { e.Direction = report.Pull }, replica.RungDirection, "pull"},
	"no disks":       {func(e *replica.Evidence) { e.Disks = nil }, replica.RungDatabase, "no disk"},
	"database dirty": {func(e *replica.Evidence) { e.Disks[1].RecordedState = dirty }, replica.RungDatabase, "disk 1 did not commit"},
	"database empty": {func(e *replica.Evidence) { e.Disks[0].RecordedState = manifest.State{} }, replica.RungDatabase, "no commit of disk 0"},
	"two generations": {func(e *replica.Evidence) {
		e.Disks[1].RecordedState, e.Disks[1].Marker.State = otherClean, otherClean
	}, replica.RungDatabase, "different runs"},
	"unfinished, against": {func(e *replica.Evidence) {
		unfinished(e)
		e.Unfinished.Against = "the host was rebooted"
	}, replica.RungDatabase, "rebooted"},
	"unfinished, unknown":       {func(e *replica.Evidence) { unfinished(e); e.Unfinished = nil }, replica.RungDatabase, "disk 0 did not commit"},
	"unfinished, not all disks": {func(e *replica.Evidence) { unfinished(e); e.Disks[1].RecordedState = clean }, replica.RungDatabase, "different runs"},
	"unfinished, VM clean":      {func(e *replica.Evidence) { unfinished(e); e.VM.Marker.State = clean }, replica.RungVMMarker, "clean:"},
	"unfinished, disk clean":    {func(e *replica.Evidence) { unfinished(e); e.Disks[1].Marker.State = clean }, replica.RungDiskMarkers, "disk 1"},
	"unfinished, disk of another run": {func(e *replica.Evidence) {
		unfinished(e)
		e.Disks[1].Marker.State = manifest.State{Dirty: true, Generation: otherClean.Generation}
	}, replica.RungDiskMarkers, "disk 1"},
	"database restored": {func(e *replica.Evidence) {
		e.Disks[0].RecordedState, e.Disks[1].RecordedState = otherClean, otherClean
	}, replica.RungVMMarker, "the replica VM says"},
	"VM dirty":                 {func(e *replica.Evidence) { e.VM.Marker.State = dirty }, replica.RungVMMarker, "dirty:"},
	"VM state lost":            {func(e *replica.Evidence) { e.VM.Marker.State = manifest.State{} }, replica.RungVMMarker, "no state"},
	"disk dirty":               {func(e *replica.Evidence) { e.Disks[1].Marker.State = dirty }, replica.RungDiskMarkers, "disk 1"},
	"disk of another run":      {func(e *replica.Evidence) { e.Disks[0].Marker.State = otherClean }, replica.RungDiskMarkers, "disk 0"},
	"disk state lost":          {func(e *replica.Evidence) { e.Disks[0].Marker.State = manifest.State{} }, replica.RungDiskMarkers, "no state"},
	"another key":              {func(e *replica.Evidence) { e.Disks[0].ManifestKey = manifest.KeyID{2} }, replica.RungKey, "under key"},
	"no manifest":              {func(e *replica.Evidence) { e.Disks[1].ManifestKey = manifest.KeyID{} }, replica.RungKey, "disk 1 has no manifest"},
	"shrunk":                   {func(e *replica.Evidence) { e.Disks[0].Size = 999 }, replica.RungDisks, "999"},
	"manifest of another size": {func(e *replica.Evidence) { e.Disks[1].ManifestSize = 500 }, replica.RungDisks, "500"},
	"snapshot of the VM":       {func(e *replica.Evidence) { e.VM.ForeignSnapshots = []string{"snap"} }, replica.RungForeign, "snapshot snap"},
	"snapshot of a disk":       {func(e *replica.Evidence) { e.Disks[0].ForeignSnapshots = []string{"snap"} }, replica.RungForeign, "disk 0 has a snapshot"},
	"a reader":                 {func(e *replica.Evidence) { e.Disks[1].ForeignVBDs = []replica.ForeignVBD{{VM: "reader"}} }, replica.RungForeign, "reader"},
}

func TestEveryRungFails(t *testing.T) {
	for name, c := range spoiledEvidence {
		e := sound()
		c.spoil(&e)
		d := replica.Trust(e)
		untested := name == "untested"
		diverged := c.rung == replica.RungPower || c.rung == replica.RungWriters || c.rung == replica.RungEmptyLeaf && !untested
		want := replica.Decision{
			Mode: report.Untrusted, Rung: c.rung, Cause: d.Cause, Diverged: diverged, Writable: !diverged && c.rung != replica.RungOwnership,
		}
		if untested {
			want.Untested = c.rung
		}
		if diff := cmp.Diff(want, d); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if !strings.Contains(d.Cause, c.cause) {
			t.Errorf("%s: cause %q does not say %q", name, d.Cause, c.cause)
		}
	}
}

// However evidence is spoiled, once or several times, it is never trusted; what is not ours is not writable, and a replica
// that was used is diverged whatever else is wrong with it.
func TestSpoiledEvidenceIsNeverTrusted(t *testing.T) {
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(spoiledEvidence)), func(name string) bool {
		return name == "no disks" // the other cases need two
	})
	notOurs := rapid.SampledFrom([]replica.Ownership{replica.Stranger, replica.None, replica.Malformed})
	rapid.Check(t, func(rt *rapid.T) {
		e := sound()
		ours := true
		for _, name := range rapid.SliceOfN(rapid.SampledFrom(names), 1, 5).Draw(rt, "spoiled") {
			spoiledEvidence[name].spoil(&e)
			rung := spoiledEvidence[name].rung
			ours = ours && rung != replica.RungOwnership
		}
		if rapid.Bool().Draw(rt, "not ours") {
			ours = false
			switch rapid.IntRange(0, 2).Draw(rt, "which") {
			case 0:
				e.VM.Ownership = notOurs.Draw(rt, "VM")
			default:
				e.Disks[rapid.IntRange(0, 1).Draw(rt, "disk")].Ownership = notOurs.Draw(rt, "ownership")
			}
		}
		used := e.VM.PowerState != "Halted" || e.VM.StartTime.After(e.VM.LastCommit.Add(-time.Hour))
		d := replica.Trust(e)
		if d.Mode != report.Untrusted || d.Cause == "" || d.Untested != "" && d.Rung != replica.RungEmptyLeaf {
			rt.Errorf("trusted: %+v", d)
		}
		if !ours && d.Writable {
			rt.Errorf("not ours and writable: %+v", d)
		}
		if ours && used && (!d.Diverged || d.Writable) {
			rt.Errorf("used and not held: %+v", d)
		}
	})
}

func TestUnused(t *testing.T) {
	vm := sound().VM
	if d, ok := replica.Unused(vm); !ok {
		t.Errorf("a replica that was not used: %+v", d)
	}
	vm.StartTime = vm.LastCommit
	if d, ok := replica.Unused(vm); ok || !d.Diverged || d.Writable || d.Rung != replica.RungPower {
		t.Errorf("a replica that was started: %v, %+v", ok, d)
	}
}

// An adopted replica is not in the state database: no VDI is expected, and it is scanned.
func TestUnrecordedDisksAreScanned(t *testing.T) {
	e := sound()
	for i := range e.Disks {
		d := &e.Disks[i]
		d.RecordedState, d.RecordedVDI, d.RecordedSize = manifest.State{}, "", 0
	}
	if d := replica.Trust(e); d.Rung != replica.RungDatabase || !d.Writable {
		t.Errorf("decided %+v", d)
	}
}

func TestBlockedOperations(t *testing.T) {
	for name, c := range map[string]struct {
		state   manifest.State
		blocked []string
		free    []string
	}{
		"clean":    {clean, []string{"start", "start_on"}, []string{"snapshot", "clone", "export", "destroy"}},
		"dirty":    {dirty, []string{"start", "start_on", "clone", "copy", "snapshot", "export", "migrate_send", "revert"}, []string{"destroy"}},
		"no state": {manifest.State{}, []string{"start", "snapshot"}, []string{"destroy"}},
	} {
		blocked := replica.BlockedOperations(c.state)
		for _, operation := range c.blocked {
			if blocked[operation] == "" {
				t.Errorf("%s: %s is not blocked with a reason", name, operation)
			}
		}
		for _, operation := range c.free {
			if _, ok := blocked[operation]; ok {
				t.Errorf("%s: %s is blocked", name, operation)
			}
		}
	}
}

func TestMergeBlocked(t *testing.T) {
	theirs := map[string]string{"destroy": "keep it", "snapshot": "ask me"}
	during := replica.MergeBlocked(theirs, dirty)
	if during["destroy"] != "keep it" || during["snapshot"] != "ask me" || during["clone"] == "" || during["start"] == "" {
		t.Errorf("while dirty: %v", during)
	}
	want := replica.BlockedOperations(clean)
	want["destroy"], want["snapshot"] = "keep it", "ask me"
	if diff := cmp.Diff(want, replica.MergeBlocked(during, clean)); diff != "" {
		t.Errorf("clean again (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(replica.BlockedOperations(clean), replica.MergeBlocked(nil, clean)); diff != "" {
		t.Errorf("none before (-want +got):\n%s", diff)
	}
}
