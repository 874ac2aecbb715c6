package saga

import (
	"context"
	"errors"
	"slices"

	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// Preview says what Recover would do about one run.
type Preview struct {
	Run    state.Run
	Remove []state.Object // what it would remove
	Leave  []Left         // what it would not, and why
}

// Left is an object that stays.
type Left struct {
	Object state.Object
	Cause  error
}

// Foresee says what Recover would do, and does nothing. The undoers must be those of pools that refuse changes, see xapi.ReadOnly:
// what an undoer looks at before its first change is looked at, and an object at which it comes to one would be removed.
func Foresee(ctx context.Context, store *state.Store, undoers Undoers) ([]Preview, error) {
	pending, err := store.PendingRuns(ctx)
	if err != nil {
		return nil, err
	}
	var all []Preview
	for _, run := range pending {
		if !run.Report.State.Final() {
			gone, err := store.OwnerGone(ctx, run.Report.ID, run.Owner)
			if err != nil {
				return all, err
			}
			if !gone {
				continue
			}
		}
		objects, err := store.Objects(ctx, run.Report.ID)
		if err != nil {
			return all, err
		}
		preview := Preview{Run: run}
		for _, o := range slices.Backward(objects) {
			if !o.Pending() {
				continue
			}
			undo, ok := undoers[o.Kind]
			err := ErrUnknownKind
			if ok {
				err = undo(ctx, o)
			}
			switch {
			case errors.Is(err, xapi.ErrReadOnly):
				preview.Remove = append(preview.Remove, o)
			case err != nil:
				preview.Leave = append(preview.Leave, Left{o, err})
			}
		}
		all = append(all, preview)
	}
	return all, ctx.Err()
}
