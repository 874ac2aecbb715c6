package replica

import (
	"context"
	"errors"
	"fmt"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// Apply writes a marker to an object, key by key, and leaves other keys alone. It may be repeated.
//
// An object that is a copy carries the marker of its original. The state goes first and comes last, and the object's own
// uuid comes just before it: wherever Apply is cut short, a copy is a stranger's or malformed, or ours without a state, which
// counts as dirty; never ours with the state of its original. Keys that are right already are not touched, since each change
// removes the key for a moment: an object that is ours stays ours.
func Apply(ctx context.Context, api xapi.API, class string, ref xapi.Ref, m Marker) error {
	if err := m.Validate(); err != nil {
		return fmt.Errorf("marking %s %s: %w", class, ref, err)
	}
	var current map[string]string
	if err := api.Call(ctx, class+".get_other_config", &current, ref); err != nil {
		return fmt.Errorf("marking %s %s: %w", class, ref, err)
	}
	values := m.values()
	var changed []string
	for _, key := range []string{keyInstallation, keyRun, keyKind, keySource, keyDisk, keyKeep, keyTime, keySelf, keyState} {
		if current[key] != values[key] {
			changed = append(changed, key)
		}
	}
	if len(changed) > 0 && current[keyState] != "" {
		if err := setKey(ctx, api, class, ref, keyState, ""); err != nil {
			return err
		}
		if changed[len(changed)-1] != keyState {
			changed = append(changed, keyState)
		}
	}
	for _, key := range changed {
		if err := setKey(ctx, api, class, ref, key, values[key]); err != nil {
			return err
		}
	}
	return nil
}

// SetState writes the state of an object that bears a marker already. Between its two calls the object has none and counts
// as dirty.
func SetState(ctx context.Context, api xapi.API, class string, ref xapi.Ref, state manifest.State) error {
	if !state.Valid() {
		return fmt.Errorf("marking %s %s: %w", class, ref, errors.New("the state has no generation"))
	}
	return setKey(ctx, api, class, ref, keyState, state.String())
}

// SetKeep says why retention must not remove a restore point that bears a marker already, or with an empty reason that it may.
func SetKeep(ctx context.Context, api xapi.API, ref xapi.Ref, why string) error {
	return setKey(ctx, api, "VM", ref, keyKeep, why)
}

// Remove takes a marker off an object, which is nobody's of ours then, and leaves other keys alone. It may be repeated. Cut short it
// leaves a marker that is malformed: never one that is ours.
func Remove(ctx context.Context, api xapi.API, class string, ref xapi.Ref) error {
	for _, key := range []string{keySelf, keyState, keyInstallation, keyRun, keySource, keyDisk, keyKeep, keyTime, KeyCarriedTags, KeyVerdict, keyKind} {
		if err := setKey(ctx, api, class, ref, key, ""); err != nil {
			return err
		}
	}
	return nil
}

// setKey sets one key, or removes it when value is empty.
func setKey(ctx context.Context, api xapi.API, class string, ref xapi.Ref, key, value string) error {
	var err error
	if value == "" {
		err = api.Call(ctx, class+".remove_from_other_config", nil, ref, key)
	} else {
		err = xapi.SetOtherConfigKey(ctx, api, class, ref, key, value)
	}
	if err != nil {
		return fmt.Errorf("marking %s %s: %w", class, ref, err)
	}
	return nil
}
