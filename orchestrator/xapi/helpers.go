package xapi

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// duplicateKeyAttempts bounds the race with another client that adds the key between our two calls.
	duplicateKeyAttempts = 5
	// A disk can stay in use for some seconds after its unplug (xapi-facts §14.4).
	destroyAttempts = 10
	destroyPause    = 5 * time.Second
	// settleTimeout bounds AwaitTasks, settlePause is the time between its looks.
	settleTimeout = 30 * time.Second
	settlePause   = 250 * time.Millisecond
)

// GetRecord reads one record of a class, such as GetRecord[VM](ctx, api, "VM", ref). An object that is gone is
// HANDLE_INVALID.
func GetRecord[T any](ctx context.Context, api API, class string, ref Ref) (T, error) {
	var record T
	err := api.Call(ctx, class+".get_record", &record, ref)
	return record, err
}

// AllRecords reads every record of a class, templates, snapshots, control domains and unmanaged disks included.
func AllRecords[T any](ctx context.Context, api API, class string) (map[Ref]T, error) {
	records := map[Ref]T{}
	err := api.Call(ctx, class+".get_all_records", &records)
	return records, err
}

// GetByUUID finds an object of a class; a miss is UUID_INVALID.
func GetByUUID(ctx context.Context, api API, class, uuid string) (Ref, error) {
	var ref Ref
	err := api.Call(ctx, class+".get_by_uuid", &ref, uuid)
	return ref, err
}

// SetOtherConfigKey sets one key of an object's other_config and leaves the others to their owners. The API
// has no such call: the key is removed, then added, again when another client adds it in between
// (xapi-facts §14.1), and when the answer is lost. A reader may find the key absent for a moment.
func SetOtherConfigKey(ctx context.Context, api API, class string, ref Ref, key, value string) error {
	var err error
	for range duplicateKeyAttempts {
		if err = api.Call(ctx, class+".remove_from_other_config", nil, ref, key); err != nil {
			break
		}
		err = api.Call(ctx, class+".add_to_other_config", nil, ref, key, value)
		if !IsCode(err, codeDuplicateKey) && (!errors.Is(err, ErrOutcomeUnknown) || ctx.Err() != nil) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("set other_config %q of %s %s: %w", key, class, ref, err)
	}
	return nil
}

// DestroyVDI destroys a disk for good. It waits up to some 45 s for one that was just unplugged; a disk that is
// gone already is no error, so that it can be repeated.
func DestroyVDI(ctx context.Context, api API, ref Ref) error {
	for attempt := 1; ; attempt++ {
		err := Destroy(ctx, api, "VDI", ref)
		switch {
		case err == nil:
			return nil
		case !IsCode(err, codeVDIInUse, codeOtherOperation):
			return fmt.Errorf("destroy VDI %s: %w", ref, err)
		case attempt == destroyAttempts:
			return fmt.Errorf("destroy VDI %s, still in use after %v: %w; find the VM or the control domain that holds it in its VBDs, and unplug it there",
				ref, (destroyAttempts-1)*destroyPause, err)
		}
		if err := pause(ctx, destroyPause); err != nil {
			return fmt.Errorf("destroy VDI %s: %w", ref, err)
		}
	}
}

// UnlessGone settles the error of a removal: nil when the object exists no more, else err. A HANDLE_INVALID may be about
// another object, such as a disk that a VM's record still names; then the pool is asked for this one.
func UnlessGone(ctx context.Context, api API, class string, ref Ref, err error) error {
	if !IsCode(err, codeHandleInvalid) {
		return err
	}
	if IsGone(err, ref) || IsGone(api.Call(ctx, class+".get_uuid", nil, ref), ref) {
		return nil
	}
	return err
}

// AwaitTasks waits until the tasks of a name, such as Async.VM.clone, that are pending when it is called have ended, for some
// 30 s at most; ended tells whether they have. A task exists from the call on, even while it is queued: once all have ended,
// whatever a call from before was to make is there, and whole. Later tasks are not waited for, so that a busy pool does not
// hold the caller up.
func AwaitTasks(ctx context.Context, api API, name string) (ended bool, err error) {
	deadline := time.Now().Add(settleTimeout)
	var awaited map[Ref]bool // nil before the first look
	for {
		tasks, err := AllRecords[Task](ctx, api, "task")
		if err != nil {
			return false, err
		}
		pending := map[Ref]bool{}
		for ref, task := range tasks {
			working := task.Status == TaskPending || task.Status == TaskCancelling
			if working && task.NameLabel == name && (awaited == nil || awaited[ref]) {
				pending[ref] = true
			}
		}
		if len(pending) == 0 {
			return true, nil
		}
		if time.Now().After(deadline) {
			return false, nil
		}
		awaited = pending
		if err := pause(ctx, settlePause); err != nil {
			return false, err
		}
	}
}
