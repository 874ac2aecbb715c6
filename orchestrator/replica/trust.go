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
// RungOption on, a rung that fails costs a scan. RungEmptyLeaf is both, and stands in the ladder twice: data that nobody of ours
// wrote is a sign of use, like those of the rungs above; where it cannot be tested, last of all, that costs a scan.
const (
	RungOwnership   Rung = "ownership"    // the replica VM and its disks bear our markers, with their own uuids, of this pair
	RungPower       Rung = "power"        // the replica is halted and has not been started since the last commit
	RungWriters     Rung = "writers"      // no other VM could write to its disks
	RungOption      Rung = "option"       // the administrator chose to trust
	RungDirection   Rung = "direction"    // not pull: with that trust is not available
	RungDatabase    Rung = "database"     // the state database says clean, with one generation for all disks, or dirty by a run whose journal counts
	RungVMMarker    Rung = "vm-marker"    // the replica VM's marker says the same, with that generation
	RungDiskMarkers Rung = "disk-markers" // so do the markers of its disks
	RungKey         Rung = "key"          // the manifests are under the domain's key
	RungDisks       Rung = "disks"        // same sizes, of the manifests too
	RungForeign     Rung = "foreign"      // no VBD and no snapshot of somebody else
	RungEmptyLeaf   Rung = "empty-leaf"   // the active disk holds nothing over the last restore point, or only what a journal tells of
)

// Evidence is all that speaks for and against the content of an existing replica. It is gathered from one consistent view of
// the pool; disks that this run adds are no part of it.
type Evidence struct {
	Option    report.Trust
	Direction report.Direction // empty: one delegate has the disks of both sides, and nobody dials
	KeyID     manifest.KeyID   // of the domain, now

	VM    VMEvidence
	Disks []DiskEvidence
	// Unfinished is about the run that the state database says the disks are dirty by; nil: they are not, or it is not known.
	Unfinished *UnfinishedEvidence
	// Distrusted: an administrator said so, until he says otherwise.
	Distrusted bool
	// Leaves are what was found of the disks' leaves, one for each disk; nil: nobody has looked yet.
	Leaves []LeafEvidence
}

// LeafEvidence is what a disk holds over the last restore point, and who wrote it.
type LeafEvidence struct {
	Disk    string // userdevice
	Foreign string // what neither a commit nor a journal accounts for; empty: nothing was found
	Against string // why it could not be tested whether there is any; empty: it was
}

// UnfinishedEvidence is about a run that wrote to the replica and ended without a commit. Its journal tells where.
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
	// AcceptedStart is the start after which an administrator chose to have the replica overwritten; zero: he did not.
	AcceptedStart time.Time
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
	Untested   Rung // a rung that was not tested: of what is trusted so far, because that comes last; else because it cannot be
	// Writable: the replica may be written. When it is not, the run fails and Cause says why.
	Writable bool
	// Diverged: somebody used the replica. Its job is held until an administrator has decided.
	Diverged bool
}

// Trust climbs the ladder and stops at the first rung that fails. It is trusted only when all of them hold.
func Trust(e Evidence) Decision {
	for _, step := range ladder {
		if cause := step.test(e); cause != "" {
			return step.failed(cause)
		}
	}
	d := Decision{Mode: report.Trusted, Rung: RungEmptyLeaf, Writable: true, Cause: "every rung holds"}
	if e.Leaves == nil {
		d.Rung, d.Untested = RungForeign, RungEmptyLeaf
		d.Cause = "every rung holds that can be tested before the run; to be tested in it: " + string(RungEmptyLeaf)
	}
	if e.Disks[0].RecordedState.Dirty {
		d.Unfinished, d.Cause = true, "the last run did not commit, and its journal tells where it wrote; "+d.Cause
	}
	return d
}

// Unused tests RungPower alone: whether the replica is halted and was not started since vm.LastCommit. Of vm it takes
// PowerState, StartTime and LastCommit. Where it does not hold, the decision is that of Trust, and ok is false.
func Unused(vm VMEvidence) (d Decision, ok bool) {
	if cause := testPower(Evidence{VM: vm}); cause != "" {
		return step{rung: RungPower, means: diverged}.failed(cause), false
	}
	return Decision{}, true
}

// step is a rung with its test, which gives the cause of its failure, or "".
type step struct {
	rung  Rung
	means meaning
	test  func(Evidence) string
}

// meaning is what it comes to when a rung does not hold.
type meaning int

const (
	stranger meaning = iota // not written: not known to be ours
	diverged                // not written: somebody used it
	scanned
	untested // scanned, since it is not known
)

// failed is the decision where a rung does not hold.
func (s step) failed(cause string) Decision {
	d := Decision{Mode: report.Untrusted, Rung: s.rung, Cause: cause, Writable: s.means >= scanned, Diverged: s.means == diverged}
	if s.means == untested {
		d.Untested = s.rung
	}
	return d
}

var ladder = []step{
	{RungOwnership, stranger, testOwnership},
	{RungPower, diverged, testPower},
	{RungWriters, diverged, testWriters},
	{RungEmptyLeaf, diverged, testLeaves},
	{RungOption, scanned, testOption},
	{RungDirection, scanned, testDirection},
	{RungDatabase, scanned, testDatabase},
	{RungVMMarker, scanned, testVMMarker},
	{RungDiskMarkers, scanned, testDiskMarkers},
	{RungKey, scanned, testKey},
	{RungDisks, scanned, testDisks},
	{RungForeign, scanned, testForeign},
	{RungEmptyLeaf, untested, testLeavesTested},
}

// Consistent reports whether the rungs hold that say which content the disks should have: then what is found in a leaf can be
// accounted for, or speaks of somebody else. Where they do not, nothing is known of it, and the leaves are not worth a look.
func Consistent(e Evidence) bool {
	for _, test := range []func(Evidence) string{
		testOwnership, testPower, testWriters, testDatabase, testVMMarker, testDiskMarkers, testDisks,
	} {
		if test(e) != "" {
			return false
		}
	}
	return true
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
	if started := e.VM.StartTime; started.After(e.VM.AcceptedStart) && !started.Before(e.VM.LastCommit.Add(-clockDifference)) {
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

func testLeaves(e Evidence) string {
	for _, l := range e.Leaves {
		if l.Foreign != "" {
			return fmt.Sprintf("disk %s was written by somebody else: %s", l.Disk, l.Foreign)
		}
	}
	return ""
}

func testLeavesTested(e Evidence) string {
	for _, l := range e.Leaves {
		if l.Against != "" {
			return fmt.Sprintf("it cannot be tested whether disk %s was written since the last restore point: %s", l.Disk, l.Against)
		}
	}
	return ""
}

func testOption(e Evidence) string {
	if e.Distrusted {
		return "an administrator distrusts the replica: 'understudy replica trust' takes that back"
	}
	if e.Option != report.TrustDestination {
		return "trust was not asked for"
	}
	return ""
}

func testDirection(e Evidence) string {
	if e.Direction == report.Pull {
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
