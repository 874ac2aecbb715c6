package replica

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/lease"
)

// The keys of a marker in other_config.
const (
	prefix          = "understudy:"
	keyInstallation = prefix + "installation" // uuid of the installation that made the object
	keyRun          = prefix + "run"          // id of the run that made it, or last committed it
	keyKind         = prefix + "kind"
	keyState        = prefix + "state"  // clean:<generation> or dirty:<generation>; replicas, restore points, their disks, CBT bases
	keySelf         = prefix + "self"   // uuid of the object itself
	keySource       = prefix + "source" // uuid of the VM or VDI that it is a copy of
	keyDisk         = prefix + "disk"   // userdevice of the disk
	keyTime         = prefix + "time"   // when it was made, by the orchestrator's clock; restore points
	keyKeep         = prefix + "keep"   // why retention must not remove it; restore points
)

// Kind says what an object of ours is for.
type Kind string

// The kinds of objects.
const (
	KindDelegateTemplate Kind = "delegate-template"
	KindTemplateDisk     Kind = "delegate-template-disk"
	KindDelegate         Kind = "delegate"
	KindDelegateDisk     Kind = "delegate-disk"
	KindScratch          Kind = "scratch"       // a disk for a delegate's test
	KindSnapshot         Kind = "snapshot"      // of a source VM, for one run
	KindSnapshotDisk     Kind = "snapshot-disk" // of a source VM's disk
	KindClone            Kind = "clone"         // of a snapshot's disk, for one run
	KindCBTBase          Kind = "cbt-base"      // a snapshot of a source VM's disk without its data, since which changes are tracked
	KindSeed             Kind = "seed"          // a clone of a restore point's disk, for one run
	KindReplica          Kind = "replica"
	KindReplicaDisk      Kind = "replica-disk"
	KindRestorePoint     Kind = "restore-point"
	KindRestorePointDisk Kind = "restore-point-disk"
	KindDiverged         Kind = "diverged" // a snapshot of a replica as somebody left it, before it is overwritten; never removed by itself
	KindDivergedDisk     Kind = "diverged-disk"
	KindRehearsal        Kind = "rehearsal" // a clone of a restore point that is started to see whether it boots
	KindRehearsalDisk    Kind = "rehearsal-disk"
)

// Valid reports whether k is one of the kinds above.
func (k Kind) Valid() bool {
	return slices.Contains([]Kind{
		KindDelegateTemplate, KindTemplateDisk, KindDelegate, KindDelegateDisk, KindScratch, KindSnapshot, KindSnapshotDisk, KindClone, KindSeed, KindCBTBase,
		KindReplica, KindReplicaDisk, KindRestorePoint, KindRestorePointDisk, KindDiverged, KindDivergedDisk,
		KindRehearsal, KindRehearsalDisk,
	}, k)
}

// Marker is what an object of ours says of itself.
type Marker struct {
	Installation string // uuid
	Run          string
	Kind         Kind
	Self         string         // uuid of the object
	State        manifest.State // zero: none. An object that should have one and has none counts as dirty
	Source       string         // uuid; empty for objects that are no copies
	Disk         string         // userdevice; empty for VMs
	Time         time.Time      // when it was made, by the orchestrator's clock; zero: not noted
	Keep         string         // why retention must not remove it, in a word; empty: it may
}

// Ownership says whose an object is.
type Ownership string

// The four answers. Only an object that is Ours may ever be written or removed.
const (
	Ours      Ownership = "ours"
	Stranger  Ownership = "stranger"  // carries our marker, copied from another object, or that of another installation
	None      Ownership = "none"      // carries no marker
	Malformed Ownership = "malformed" // carries a marker that nobody wrote like that
)

// Read reads the marker of the object with this uuid, for the installation with that one. The error says what is wrong and
// is nil but for Malformed. Of anything but Ours, the Marker is for reports only.
func Read(installation, objectUUID string, otherConfig map[string]string) (Marker, Ownership, error) {
	m := Marker{
		Installation: otherConfig[keyInstallation], Run: otherConfig[keyRun], Kind: Kind(otherConfig[keyKind]),
		Self: otherConfig[keySelf], Source: otherConfig[keySource], Disk: otherConfig[keyDisk], Keep: otherConfig[keyKeep],
	}
	// A call that adds to the lease may come when the object is nobody's any more.
	marked := func(key string) bool { return strings.HasPrefix(key, prefix) && !strings.HasPrefix(key, lease.Prefix) }
	m.Time, _ = time.Parse(time.RFC3339Nano, otherConfig[keyTime]) // one that cannot be read is not noted
	switch {
	case !slices.ContainsFunc(slices.Collect(maps.Keys(otherConfig)), marked):
		return Marker{}, None, nil
	case m.Self != "" && m.Self != objectUUID, m.Installation != "" && m.Installation != installation:
		return m, Stranger, nil
	}
	if text, ok := otherConfig[keyState]; ok {
		state, err := manifest.ParseState(text)
		if err != nil {
			return m, Malformed, fmt.Errorf("marker of %s: %s: %w", objectUUID, keyState, err)
		}
		m.State = state
	}
	if err := m.Validate(); err != nil {
		return m, Malformed, fmt.Errorf("marker of %s: %w", objectUUID, err)
	}
	return m, Ours, nil
}

// Validate names what is missing or cannot be. Run may be missing: it changes with every commit, and a process may die between
// the two calls that this takes.
func (m Marker) Validate() error {
	for _, key := range []struct{ name, value string }{{keySelf, m.Self}, {keyInstallation, m.Installation}} {
		if _, err := uuid.Parse(key.value); err != nil {
			return fmt.Errorf("%s is %.80q, want a uuid", key.name, key.value)
		}
	}
	if !m.Kind.Valid() {
		return fmt.Errorf("%s is %.80q, which is no kind of object", keyKind, m.Kind)
	}
	return nil
}

// values are the keys of other_config; an empty value means that the key must be absent.
func (m Marker) values() map[string]string {
	values := map[string]string{
		keyInstallation: m.Installation, keyRun: m.Run, keyKind: string(m.Kind), keySelf: m.Self,
		keySource: m.Source, keyDisk: m.Disk, keyKeep: m.Keep, keyState: "", keyTime: "",
	}
	if !m.Time.IsZero() {
		values[keyTime] = m.Time.UTC().Format(time.RFC3339Nano)
	}
	if m.State.Valid() {
		values[keyState] = m.State.String()
	}
	return values
}

// OtherConfig gives the marker as the keys of a new object's other_config, for creating calls that take one: VDI.create.
// The object's uuid is not known before, so that Self is left out and the object counts as Malformed, which is never written,
// until Apply has finished. Its Run says from the first moment on who made it.
func (m Marker) OtherConfig() map[string]string {
	m.Self = ""
	values := m.values()
	maps.DeleteFunc(values, func(_, value string) bool { return value == "" })
	return values
}
