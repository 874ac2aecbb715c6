package delegate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	// watchWait is one wait for an event. After each the record itself is read, because after a restart of the toolstack no
	// event may come (xapi-facts §4).
	watchWait = 5 * time.Second

	codeTokenParseFailure = "EVENT_FROM_TOKEN_PARSE_FAILURE"
	codeHandleInvalid     = "HANDLE_INVALID"
)

// watch shows every state of a VM, the present one first, until look says that it has seen enough. Events are coalesced:
// states in between may be missed. The error is look's, the API's (HANDLE_INVALID once the VM is gone) or ctx's cause.
func watch(ctx context.Context, api xapi.API, ref xapi.Ref, look func(xapi.VM) (bool, error)) error {
	token := ""
	for {
		batch, err := api.Events(ctx, []string{"vm/" + string(ref)}, token, watchWait)
		if token != "" && xapi.IsCode(err, codeTokenParseFailure) {
			token = ""
			continue
		}
		if err != nil && (ctx.Err() != nil || !xapi.IsTemporary(err)) {
			return err
		}
		if err != nil { // a pool that is away for a while is waited for by the look at the record
			if err := pause(ctx, driverPause); err != nil {
				return err
			}
		}
		token = batch.Token
		seen := false
		for _, event := range batch.Events {
			if event.Ref != ref || event.Operation == xapi.EventDelete {
				continue
			}
			var vm xapi.VM
			if err := event.Decode(&vm); err != nil {
				return err
			}
			seen = true
			if done, err := look(vm); done || err != nil {
				return err
			}
		}
		if seen {
			continue
		}
		vm, err := xapi.GetRecord[xapi.VM](ctx, api, "VM", ref)
		if err != nil {
			return err
		}
		if done, err := look(vm); done || err != nil {
			return err
		}
	}
}

// pause sleeps, or returns early with the context's cause.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// withCause makes sure that an error after the end of ctx tells so: a pool that sees its caller go may answer with an error of
// its own.
func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}
