package xapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// ensureAttempts is how often a call is made at most whose outcome is lost each time.
	ensureAttempts = 4
	// effectTimeout is how long the effect of a lost call is looked for that no task is at work on: a request may be read by its
	// host after its connection broke, and what a host was doing while its coordinator was replaced goes on without a task
	// (xen-api ocaml/xapi/cancel_tasks.ml).
	effectTimeout = 2 * time.Second
)

// Ensure runs a method as a task, as API.Run does, and makes sure of its outcome when that was lost: with the answer, or with the
// task when the coordinator was replaced or its toolstack restarted (xapi-facts §14.35). done tells whether what the call is for is
// so, whoever brought it about. It is asked only then, once no task of the method is pending any more: when it is not so the call is
// made again.
//
// The error is the call's own, or ErrOutcomeUnknown when the outcome stays lost.
func Ensure(ctx context.Context, api API, method string, done func(ctx context.Context) (bool, error), args ...any) error {
	return ensure(ctx, api, method, nil, done, nil, args)
}

// Make is Ensure for a method that makes an object, whose reference it gives. find finds what the call has made, by what nothing
// else has, such as a name that was an argument.
func Make(ctx context.Context, api API, method string, find func(ctx context.Context) ([]Ref, error), args ...any) (Ref, error) {
	return makeWith(ctx, api, method, find, nil, args)
}

// makeWith is Make, with what clears away what a call has left unfinished before it is made again; nil when it leaves nothing.
func makeWith(ctx context.Context, api API, method string, find func(context.Context) ([]Ref, error), clear func(context.Context) error, args []any) (Ref, error) {
	var made Ref
	err := ensure(ctx, api, method, (*string)(&made), func(ctx context.Context) (bool, error) {
		found, err := find(ctx)
		switch {
		case err != nil || len(found) == 0:
			return false, err
		case len(found) > 1:
			return false, fmt.Errorf("%d objects are what it may have made: remove those that nobody needs", len(found))
		}
		made = found[0]
		return true, nil
	}, clear, args)
	return made, err
}

func ensure(ctx context.Context, api API, method string, result *string, done func(context.Context) (bool, error), clear func(context.Context) error, args []any) error {
	for attempt := 1; ; attempt++ {
		err := api.Run(ctx, method, result, args...)
		lost := errors.Is(err, ErrOutcomeUnknown)
		if err == nil || ctx.Err() != nil || !lost && attempt == 1 {
			return err
		}
		// An error of the API after a lost answer may be that what was asked for is so already.
		is, unseen := effect(ctx, api, method, done)
		if !is && unseen == nil && lost && attempt < ensureAttempts && clear != nil {
			unseen = clear(ctx)
		}
		switch {
		case is:
			return nil
		case unseen != nil:
			return fmt.Errorf("%w; looking for what came of it: %w", err, unseen)
		case !lost || attempt == ensureAttempts:
			return err
		}
	}
}

// effect looks whether a call whose outcome was lost has done what it was for.
func effect(ctx context.Context, api API, method string, done func(context.Context) (bool, error)) (bool, error) {
	for began := time.Now(); ; {
		ended, err := AwaitTasks(ctx, api, "Async."+method)
		if err != nil {
			return false, err
		}
		is, err := done(ctx)
		switch {
		case is || err != nil:
			return is, err
		case !ended:
			return false, fmt.Errorf("a task Async.%s that was pending does not end: try again when it has ended", method)
		case time.Since(began) >= effectTimeout:
			return false, nil
		}
		if err := pause(ctx, settlePause); err != nil {
			return false, err
		}
	}
}

// Destroy destroys an object for good. One that is gone already is no error, so that it can be repeated.
func Destroy(ctx context.Context, api API, class string, ref Ref) error {
	err := Ensure(ctx, api, class+".destroy", func(ctx context.Context) (bool, error) {
		err := api.Call(ctx, class+".get_uuid", nil, ref)
		if IsGone(err, ref) {
			return true, nil
		}
		return false, err
	}, ref)
	return UnlessGone(ctx, api, class, ref, err)
}

// Record is an Ensure's look at one object: whether its record is as is says.
func Record[T any](api API, class string, ref Ref, is func(T) bool) func(ctx context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		record, err := GetRecord[T](ctx, api, class, ref)
		return err == nil && is(record), err
	}
}

// ByName is a Make's look for the objects of a class that have a name, but for one that may have it as well.
func ByName(api API, class, name string, except Ref) func(ctx context.Context) ([]Ref, error) {
	return func(ctx context.Context) ([]Ref, error) {
		var refs []Ref
		if err := api.Call(ctx, class+".get_by_name_label", &refs, name); err != nil {
			return nil, err
		}
		return slices.DeleteFunc(refs, func(r Ref) bool { return r == except }), nil
	}
}

// MakeVBD is VBD.create. The record's VM, VDI and userdevice must be given.
func MakeVBD(ctx context.Context, api API, record map[string]any) (Ref, error) {
	return makeDevice(ctx, api, "VBD", record, func(v VBD) bool { return v.VDI == record["VDI"] && v.UserDevice == record["userdevice"] })
}

// MakeVIF is VIF.create. The record's VM and device must be given.
func MakeVIF(ctx context.Context, api API, record map[string]any) (Ref, error) {
	return makeDevice(ctx, api, "VIF", record, func(v VIF) bool { return v.Network == record["network"] && v.Device == record["device"] })
}

// makeDevice makes a device of a VM, at a position that no two devices of a VM can have.
func makeDevice[T any](ctx context.Context, api API, class string, record map[string]any, is func(T) bool) (Ref, error) {
	return Make(ctx, api, class+".create", func(ctx context.Context) ([]Ref, error) {
		var devices, found []Ref
		if err := api.Call(ctx, "VM.get_"+class+"s", &devices, record["VM"]); err != nil {
			return nil, err
		}
		for _, ref := range devices {
			device, err := GetRecord[T](ctx, api, class, ref)
			switch {
			case IsGone(err, ref):
			case err != nil:
				return nil, err
			case is(device):
				found = append(found, ref)
			}
		}
		return found, nil
	}, record)
}
