package appliance

import (
	"cmp"
	"context"
	"errors"
	"strings"
)

// Guest is what a delegate sees of the virtual machine it runs in, beside its network and its block devices. Keys are paths
// relative to the domain's own directory in XenStore, such as "vm-data/understudy/in/nonce"; the other implementations carry
// the same keys another way. Values are short text without newlines. All methods may be called by several goroutines.
//
// Every implementation passes the suite in package guesttest.
type Guest interface {
	// Domain tells which VM and which boot of it this is. The answer changes when the VM is resumed or migrated.
	Domain(ctx context.Context) (Domain, error)

	// Input returns what the pool configured: the values of all keys below control.InputPrefix, by their names without it.
	Input(ctx context.Context) (map[string]string, error)

	// Publish writes values for the pool to read, in order: whoever sees an entry sees those before it. A value that is there
	// already is replaced.
	Publish(ctx context.Context, entries ...Entry) error

	// WatchDevices calls report for every disk that is there and then for every change, one call at a time, until ctx ends;
	// it then returns nil. An error is one of the guest's machinery.
	WatchDevices(ctx context.Context, report func(DeviceEvent)) error

	// AwaitShutdown returns when the pool asks the VM to stop, after acknowledging so that the pool waits on. It returns the
	// request's word; an error when ctx ends.
	AwaitShutdown(ctx context.Context) (Shutdown, error)

	// PowerOff publishes the cause under control.CauseKey, as CauseText has it, and then ends the machine, where the implementation is
	// one that has a machine to end: it then does not return but for an error. Otherwise it returns and the caller ends the process.
	PowerOff(ctx context.Context, cause string) error
}

// ErrNoDomain is returned by Guest.Domain when the pool's side has not written who this is.
var ErrNoDomain = errors.New("guest has no domain identity")

// maxCauseText bounds a published cause in bytes: far below what XenStore and xapi take for a value (xapi-facts §7.1).
const maxCauseText = 1000

// CauseText is what the pool is told of a cause: one line, though errors.Join makes several, and cut where it would be too long for a
// value.
func CauseText(cause string) string {
	text := strings.ReplaceAll(strings.ToValidUTF8(cmp.Or(cause, "no cause given"), "?"), "\n", "; ")
	if len(text) > maxCauseText {
		const mark = "…"
		text = strings.ToValidUTF8(text[:maxCauseText-len(mark)], "") + mark // whole characters
	}
	return text
}

// Domain names the virtual machine.
type Domain struct {
	VM       string // its uuid
	UniqueID string // fresh at each boot, resume and migration (xapi-facts §7.1)
}

// Entry is one published value.
type Entry struct{ Key, Value string }

// DeviceEvent tells that a disk came or went.
type DeviceEvent struct {
	Number   int    // VBD.userdevice
	Plugged  bool   // came; otherwise went
	Path     string // to open it by; set when plugged
	ReadOnly bool   // as plugged
}

// Shutdown is a word that the pool writes to control/shutdown (xapi-facts §7.7).
type Shutdown string

// The words of control/shutdown. A delegate keeps no state, so 'reboot' ends it too; it cannot be suspended under a transfer.
const (
	ShutdownPowerOff Shutdown = "poweroff"
	ShutdownHalt     Shutdown = "halt"
	ShutdownReboot   Shutdown = "reboot"
	ShutdownSuspend  Shutdown = "suspend"
)
