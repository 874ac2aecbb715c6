package xapi

import (
	"context"
	"fmt"
	"time"
)

const (
	// duplicateKeyAttempts bounds the race with another client that adds the key between our two calls.
	duplicateKeyAttempts = 5
	// A disk can stay in use for some seconds after its unplug (xapi-facts §14.4).
	destroyAttempts = 10
	destroyPause    = 5 * time.Second
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
// (xapi-facts §14.1). A reader may find the key absent for a moment.
func SetOtherConfigKey(ctx context.Context, api API, class string, ref Ref, key, value string) error {
	var err error
	for range duplicateKeyAttempts {
		if err = api.Call(ctx, class+".remove_from_other_config", nil, ref, key); err != nil {
			break
		}
		err = api.Call(ctx, class+".add_to_other_config", nil, ref, key, value)
		if !IsCode(err, codeDuplicateKey) {
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
		err := api.Run(ctx, "VDI.destroy", nil, ref)
		switch {
		case err == nil, IsCode(err, codeHandleInvalid):
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
