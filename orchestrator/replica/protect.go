package replica

import (
	"fmt"
	"maps"
	"strings"

	"github.com/understudy-dr/understudy/manifest"
)

// TagLeaveAlone keeps Xen Orchestra's backup jobs away from a VM. A replica backed up by them would get snapshots of theirs,
// which takes the active disk out from under the restore points.
const TagLeaveAlone = "xo-no-bak"

// Every reason of ours begins with ourReason, by which MergeBlocked knows it again.
const (
	ourReason     = "Understudy: "
	reasonStandby = ourReason + "this is a standby copy. Use a failover or a test clone: the next run overwrites what it does."
	reasonDirty   = ourReason + "this standby copy is being written, or its last run did not end well. Use one of its restore points."
)

// whileStandby would make the replica a VM of its own: what it wrote would be lost with the next run.
var whileStandby = []string{"start", "start_on"}

// whileDirty would take its disks, whose content is neither the old nor the new state, for the VM's.
var whileDirty = []string{
	"clone", "copy", "snapshot", "snapshot_with_quiesce", "checkpoint", "export", "migrate_send",
	"create_template", "make_into_template", "revert",
}

// BlockedOperations gives the blocked_operations of a replica VM in this state: operation → reason, which the pool shows to
// whoever tries. A replica without a state is dirty. They stop Understudy's own calls too (xapi-facts §14.36): turn the
// state clean first, then snapshot.
func BlockedOperations(state manifest.State) map[string]string {
	blocked := make(map[string]string)
	for _, operation := range whileStandby {
		blocked[operation] = reasonStandby
	}
	if state.Dirty || !state.Valid() {
		for _, operation := range whileDirty {
			blocked[operation] = reasonDirty
		}
	}
	return blocked
}

// started are the ways to start a VM that has a state of its own.
var started = []string{"start", "start_on", "resume", "resume_on"}

// reasonFailedOver names the failover, by the replica's id: another one of the same VM does not lift it.
func reasonFailedOver(id string) string {
	return fmt.Sprintf(ourReason+"this VM has failed over to its replica %s, which does its work with its addresses. 'understudy replica undo' lifts this.", id)
}

// BlockSource gives the blocked_operations to set on a VM that has current ones now, and that has failed over to the replica with this
// id: it must not be started beside it. What somebody else blocks stands.
func BlockSource(current map[string]string, id string) map[string]string {
	blocked := maps.Clone(current)
	if blocked == nil {
		blocked = map[string]string{}
	}
	for _, operation := range started {
		if blocked[operation] == "" {
			blocked[operation] = reasonFailedOver(id)
		}
	}
	return blocked
}

// ReleaseSource takes back what BlockSource added for this replica, and nothing else.
func ReleaseSource(current map[string]string, id string) map[string]string {
	blocked := map[string]string{}
	for operation, reason := range current {
		if reason != reasonFailedOver(id) {
			blocked[operation] = reason
		}
	}
	return blocked
}

// OthersBlocked gives those of a VM's blocked operations that are not ours.
func OthersBlocked(current map[string]string) map[string]string {
	others := map[string]string{}
	for operation, reason := range current {
		if !strings.HasPrefix(reason, ourReason) {
			others[operation] = reason
		}
	}
	return others
}

// MergeBlocked gives the blocked_operations to set on a replica VM that has current ones now: ours for its state, and those
// that somebody else added, which stand where both would.
func MergeBlocked(current map[string]string, state manifest.State) map[string]string {
	merged := BlockedOperations(state)
	maps.Copy(merged, OthersBlocked(current))
	return merged
}
