package replica

import (
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// Rung is a step of the ladder of trust.
type Rung string

// The rungs, in the order in which they are climbed. While one of the first three does not hold, nothing is written; from
// RungOption on, a rung that fails costs a scan.
const (
	RungOwnership   Rung = "ownership"    // the replica VM and its disks bear our markers, with their own uuids, of this pair
	RungPower       Rung = "power"        // the replica is halted and has not been started since the last commit
	RungWriters     Rung = "writers"      // no other VM could write to its disks
	RungOption      Rung = "option"       // the administrator chose to trust
	RungDirection   Rung = "direction"    // push: with pull it is not available
	RungDatabase    Rung = "database"     // the state database says clean, with one generation for all disks, or dirty by a run whose journal counts
	RungVMMarker    Rung = "vm-marker"    // the replica VM's marker says the same, with that generation
	RungDiskMarkers Rung = "disk-markers" // so do the markers of its disks
	RungKey         Rung = "key"          // the manifests are under the domain's key
	RungDisks       Rung = "disks"        // same sizes, of the manifests too
	RungForeign     Rung = "foreign"      // no VBD and no snapshot of somebody else
	RungEmptyLeaf   Rung = "empty-leaf"   // the active disk holds nothing over the last restore point; not tested yet
)

// Evidence is all that speaks for and against the content of an existing replica. It is gathered from one consistent view of
// the pool; disks that this run adds are no part of it.
type Evidence struct {
	Option    report.Trust
	Direction report.Direction
	KeyID     manifest.KeyID // of the domain, now

	VM    VMEvidence
	Disks []DiskEvidence
	// Unfinished is about the run that the state database says the disks are dirty by; nil: they are not, or it is not known.
	Unfinished *UnfinishedEvidence
}

// UnfinishedEvidence is about a run that wrote to the replica and ended without a commit. Its journal tells what it left behind.
type UnfinishedEvidence struct {
	Against string // why the journal is not relied upon; empty: it is
}

// clockDifference is how far the clocks of a pool's hosts may be apart: a start is stamped by the host that it happened on, a
// commit by the coordinator. A replica started just before a commit would have been held then, so that this condemns nobody.
const clockDifference = 2 * time.Minute

// VMEvidence is about the replica VM.
type VMEvidence struct {
	Ownership  Ownership
	Marker     Marker
	Source     string            // uuid of the VM that it is a copy of, by the state database
	PowerState xapi.VMPowerState // as in the XenAPI
	StartTime  time.Time         // VM_metrics.start_time, by the pool's clock; zero when it never ran
	LastCommit time.Time         // of the state database, by the coordinator's clock; zero before the first
	// ForeignSnapshots are the uuids of snapshots of the replica VM that are not ours.
	ForeignSnapshots []string
}

// DiskEvidence is about one disk of the replica: what the state database says of it (Recorded…), and what the pool does.
type DiskEvidence struct {
	Disk          string // userdevice
	RecordedState manifest.State
	RecordedVDI   string         // uuid
	RecordedSize  int64          // logical size
	ManifestKey   manifest.KeyID // zero when there is no manifest
	ManifestSize  int64          // logical size that the manifest is of; 0 when there is none

	Ownership Ownership
	Marker    Marker
	VDI       string // uuid
	Size      int64  // virtual size: the logical size, rounded up by the SR
	// ForeignVBDs are VBDs of VMs that are neither the replica nor a delegate: once the run has one, that one.
	ForeignVBDs []ForeignVBD
	// ForeignSnapshots are the uuids of snapshots of the disk that are not ours.
	ForeignSnapshots []string
}

// ForeignVBD is somebody else's hold on a disk of the replica.
type ForeignVBD struct {
	VM       string // uuid
	Writable bool   // mode RW, attached or not: it may have been
}

// Decision is what the evidence comes to.
type Decision struct {
	Mode  report.Mode // how the disks are compared, if they may be written
	Rung  Rung        // trusted: the highest rung that was tested; else the one that failed
	Cause string      // in a sentence
	// Unfinished: trusted for what the last run, which did not commit, noted of it.
	Unfinished bool
	Untested   Rung // trusted: a rung that could not be tested
	// Writable: the replica may be written. When it is not, the run fails and Cause says why.
	Writable bool
	// Diverged: somebody used the replica. Its job is held until an administrator has decided.
	Diverged bool
}

// Trust climbs the ladder and stops at the first rung that fails. It is trusted only when all of them hold.
func Trust(e Evidence) Decision {
	for _, step := range ladder {
		cause := step.test(e)
		if cause == "" {
			continue
		}
		return failed(step.rung, cause)
	}
	d := Decision{
		Mode: report.Trusted, Rung: ladder[len(ladder)-1].rung, Untested: RungEmptyLeaf, Writable: true,
		Cause: "every rung that can be tested holds; not tested: " + string(RungEmptyLeaf),
	}
	if e.Disks[0].RecordedState.Dirty {
		d.Unfinished, d.Cause = true, "the last run did not commit, and its journal tells what it left behind; "+d.Cause
	}
	return d
}

// Unused tests RungPower alone: whether the replica is halted and was not started since vm.LastCommit. Of vm it takes
// PowerState, StartTime and LastCommit. Where it does not hold, the decision is that of Trust, and ok is false.
func Unused(vm VMEvidence) (d Decision, ok bool) {
	if cause := testPower(Evidence{VM: vm}); cause != "" {
		return failed(RungPower, cause), false
	}
	return Decision{}, true
}

// failed is the decision where a rung does not hold.
func failed(rung Rung, cause string) Decision {
	diverged := rung == RungPower || rung == RungWriters
	return Decision{
		Mode: report.Untrusted, Rung: rung, Cause: cause, Writable: rung != RungOwnership && !diverged, Diverged: diverged,
	}
}

// ladder lists the rungs with their tests; a test gives the cause of its failure, or "".
var ladder = []struct {
	rung Rung
	test func(Evidence) string
}{
	{RungOwnership, testOwnership},
	{RungPower, testPower},
	{RungWriters, testWriters},
	{RungOption, testOption},
	{RungDirection, testDirection},
	{RungDatabase, testDatabase},
	{RungVMMarker, testVMMarker},
	{RungDiskMarkers, testDiskMarkers},
	{RungKey, testKey},
	{RungDisks, testDisks},
	{RungForeign, testForeign},
}

func testOwnership(e Evidence) string {
	if cause := notOurs("the replica VM", KindReplica, e.VM.Ownership, e.VM.Marker); cause != "" {
		return cause
	}
	if e.VM.Marker.Source != e.VM.Source {
		return fmt.Sprintf("the replica VM is marked as a copy of VM %s, not of %s, and is not written", e.VM.Marker.Source, e.VM.Source)
	}
	for _, d := range e.Disks {
		if cause := notOurs("disk "+d.Disk, KindReplicaDisk, d.Ownership, d.Marker); cause != "" {
			return cause
		}
		if d.Marker.Disk != d.Disk {
			return fmt.Sprintf("disk %s is marked as disk %s and is not written", d.Disk, d.Marker.Disk)
		}
		if d.RecordedVDI != "" && d.VDI != d.RecordedVDI {
			return fmt.Sprintf("disk %s is VDI %s now, it was %s, and is not written", d.Disk, d.VDI, d.RecordedVDI)
		}
	}
	return ""
}

func notOurs(what string, kind Kind, o Ownership, m Marker) string {
	switch {
	case o == None:
		return what + " bears no marker: it is not known to be ours and is not written"
	case o == Stranger:
		return fmt.Sprintf("%s bears the marker of %s of installation %s: it is a copy, or another's, and is not written", what, m.Self, m.Installation)
	case o != Ours:
		return what + " bears a marker that cannot be read: it is not known to be ours and is not written"
	case m.Kind != kind:
		return fmt.Sprintf("%s is marked as a %s, not as a %s, and is not written", what, m.Kind, kind)
	}
	return ""
}

func testPower(e Evidence) string {
	if e.VM.PowerState != xapi.Halted {
		return fmt.Sprintf("the replica is %s: somebody started it", e.VM.PowerState)
	}
	// Both times have a resolution of a second: a start in the second of the commit counts.
	if started := e.VM.StartTime; !started.IsZero() && !started.Before(e.VM.LastCommit.Add(-clockDifference)) {
		return fmt.Sprintf("the replica was started at %s, after its last commit at %s or, by the clock of another host, within %s before it",
			stamp(started), stamp(e.VM.LastCommit), clockDifference)
	}
	return ""
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "(never)"
	}
	return t.UTC().Format(time.RFC3339)
}

func testWriters(e Evidence) string {
	for _, d := range e.Disks {
		for _, v := range d.ForeignVBDs {
			if v.Writable {
				return fmt.Sprintf("VM %s holds disk %s and may have written to it", v.VM, d.Disk)
			}
		}
	}
	return ""
}

func testOption(e Evidence) string {
	if e.Option != report.TrustDestination {
		return "trust was not asked for"
	}
	return ""
}

func testDirection(e Evidence) string {
	if e.Direction != report.Push {
		return "trust is not available for pull"
	}
	return ""
}

func testDatabase(e Evidence) string {
	if len(e.Disks) == 0 {
		return "the state database knows no disk of the replica"
	}
	for _, d := range e.Disks {
		switch state := d.RecordedState; {
		case !state.Valid():
			return fmt.Sprintf("the state database knows of no commit of disk %s", d.Disk)
		case state.Dirty && e.Unfinished == nil:
			return fmt.Sprintf("the last run that wrote to disk %s did not commit", d.Disk)
		case state.Dirty && e.Unfinished.Against != "":
			return fmt.Sprintf("the last run that wrote to disk %s did not commit, and its journal does not count: %s", d.Disk, e.Unfinished.Against)
		case state != e.Disks[0].RecordedState:
			return fmt.Sprintf("disk %s and disk %s were last written by different runs", e.Disks[0].Disk, d.Disk)
		}
	}
	return ""
}

func testVMMarker(e Evidence) string {
	return disagrees("the replica VM", e.Disks[0].RecordedState, e.VM.Marker.State)
}

func testDiskMarkers(e Evidence) string {
	for _, d := range e.Disks {
		if cause := disagrees("disk "+d.Disk, d.RecordedState, d.Marker.State); cause != "" {
			return cause
		}
	}
	return ""
}

// disagrees compares the state in the database with that of a marker. Dirty is one that testDatabase lets pass.
func disagrees(what string, recorded, marked manifest.State) string {
	if recorded == marked && marked.Valid() {
		return ""
	}
	if !marked.Valid() {
		return fmt.Sprintf("the marker of %s has no state", what)
	}
	return fmt.Sprintf("the marker of %s says %s, the state database %s", what, marked, recorded)
}

func testKey(e Evidence) string {
	for _, d := range e.Disks {
		switch {
		case d.ManifestKey == (manifest.KeyID{}):
			return fmt.Sprintf("disk %s has no manifest", d.Disk)
		case d.ManifestKey != e.KeyID:
			return fmt.Sprintf("the manifest of disk %s is under key %s, the domain's is %s", d.Disk, d.ManifestKey, e.KeyID)
		}
	}
	return ""
}

func testDisks(e Evidence) string {
	for _, d := range e.Disks {
		switch {
		case d.Size < d.RecordedSize:
			return fmt.Sprintf("disk %s has %d bytes, it had at least %d", d.Disk, d.Size, d.RecordedSize)
		case d.ManifestSize != d.RecordedSize:
			return fmt.Sprintf("the manifest of disk %s is of %d bytes, the disk of %d: a run that changed its size did not get far",
				d.Disk, d.ManifestSize, d.RecordedSize)
		}
	}
	return ""
}

func testForeign(e Evidence) string {
	if len(e.VM.ForeignSnapshots) > 0 {
		return fmt.Sprintf("the replica has a snapshot %s that is not ours", e.VM.ForeignSnapshots[0])
	}
	for _, d := range e.Disks {
		if len(d.ForeignVBDs) > 0 {
			return fmt.Sprintf("VM %s holds disk %s", d.ForeignVBDs[0].VM, d.Disk)
		}
		if len(d.ForeignSnapshots) > 0 {
			return fmt.Sprintf("disk %s has a snapshot %s that is not ours", d.Disk, d.ForeignSnapshots[0])
		}
	}
	return ""
}
