package xapi

import (
	"path"
	"slices"
	"strings"
)

// repeatable lists the calls that may be sent again when their answer was lost, as patterns of class and name. All others end
// in ErrOutcomeUnknown then. A call that a host refused before it did anything (a dead session, a supporter, a toolstack that
// starts) and one of which nothing was sent are repeated whatever they do.
//
//	pattern                what              why
//	*.get_*, event.from    reads             nothing changes
//	*.assert_*             checks            nothing changes
//	host.compute_*,
//	VM.compute_*           reckons           nothing changes
//	VDI.list_changed_*     reads             nothing changes
//	*.set_*                whole values      twice is once
//	*.remove_from_*        keys              a missing one is no error (xapi-facts §1.4)
//	*.*_tags               tags              a set: one that is there, or missing, is no error
//	task.cancel            a wish            it stays one
//	SR.scan, SR.update     look at storage   the second finds what the first did
//	*.update_allowed_*     recomputes        twice is once
//	event.inject           tells of what is  twice is once
//	task.create            an empty row      the pool removes one that nobody takes up within a day (xapi-facts §3)
//
// Not repeatable, and what the caller does instead:
//
//	*.add_to_*             MAP_DUPLICATE_KEY would not tell who added it: look at the value, or remove and add again (SetOtherConfigKey)
//	*.set_bios_strings     a second time is refused: look at the VM
//	*.create, *.clone,
//	*.snapshot, *.copy     look for the object by the name, marker or position that was an argument of the call (Make, MakeVBD, MakeVIF; CopyVM)
//	*.destroy              look whether the object is gone (Destroy, DestroyVDI)
//	plug, unplug, start,
//	shutdown, resize …     look at the object's state (Ensure)
//	Async.*                a second task would do it all again; Ensure and Make wait for the tasks of its name, look, and call again
//	PUT /import            the task is the caller's own: it tells (Client.Import), or leads to what was made (ImportTaskKey)
var repeatable = []string{
	"*.get_*", "event.from", "*.assert_*", "host.compute_*", "VM.compute_*", "VDI.list_changed_*", "*.set_*", "*.remove_from_*", "*.add_tags", "*.remove_tags",
	"task.cancel", "SR.scan", "SR.update", "*.update_allowed_*", "event.inject", "task.create",
}

// once are the exceptions from repeatable: what a second call of them is refused for, or does again.
var once = []string{"*.set_bios_strings", "host.set_servertime"}

// mayRepeat reports whether a call may be sent twice.
func mayRepeat(method string) bool {
	_, name, ok := strings.Cut(method, ".")
	if !ok || strings.Contains(name, ".") { // Async.VM.get_boot_record is a task
		return false
	}
	return matches(repeatable, method) && !matches(once, method)
}

func matches(patterns []string, method string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		match, err := path.Match(pattern, method)
		return err == nil && match
	})
}
