package lease

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	// Time is how long an entry is valid.
	Time = 75 * time.Second
	// resolution is that of the pool's clock.
	resolution = time.Second

	codeDuplicateKey = "MAP_DUPLICATE_KEY"
)

// Place is where the lease of a replica lies.
type Place struct {
	API         xapi.API
	VM          xapi.Ref
	Coordinator xapi.Ref      // the host by whose clock all count
	Time        time.Duration // in place of Time; all who use a lease must have the same; 0: Time
}

func (p Place) time() time.Duration { return cmp.Or(p.Time, Time) }

// valid is how long a holder relies on an entry, from before the pool's clock was read for it.
func (p Place) valid() time.Duration { return p.time() - p.time()/5 - resolution }

// elapsed is the time since t by the clock that says more: neither knows of every sleep.
func elapsed(t time.Time) time.Duration {
	return max(time.Since(t), time.Now().Round(0).Sub(t.Round(0)))
}

// clock is the pool's time, in whole seconds. Another host may be the coordinator now.
func (p Place) clock(ctx context.Context) (time.Time, error) {
	var now xapi.Time
	err := p.API.Call(ctx, "host.get_servertime", &now, p.Coordinator)
	if failure := (*xapi.Error)(nil); errors.As(err, &failure) {
		var pools []xapi.Ref
		if err = p.API.Call(ctx, "pool.get_all", &pools); err == nil && len(pools) == 1 {
			if err = p.API.Call(ctx, "pool.get_master", &p.Coordinator, pools[0]); err == nil {
				err = p.API.Call(ctx, "host.get_servertime", &now, p.Coordinator)
			}
		}
	}
	if err == nil && now.IsZero() {
		err = errors.New("it shows no time")
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the pool's clock: %w", err)
	}
	return now.Time, nil
}

func (p Place) read(ctx context.Context) (map[uint64]Entry, error) {
	var otherConfig map[string]string
	if err := p.API.Call(ctx, "VM.get_other_config", &otherConfig, p.VM); err != nil {
		return nil, err
	}
	return log(otherConfig), nil
}

// add adds an entry, whoever has added it, and reads the log. It may be repeated. Without the entry the outcome is not known yet.
func (p Place) add(ctx context.Context, e Entry) (map[uint64]Entry, error) {
	err := p.API.Call(ctx, "VM.add_to_other_config", nil, p.VM, e.key(), e.value())
	if err != nil && !xapi.IsCode(err, codeDuplicateKey) && (!errors.Is(err, xapi.ErrOutcomeUnknown) || ctx.Err() != nil) {
		return nil, err
	}
	entries, unread := p.read(ctx)
	if unread != nil {
		return nil, unread
	}
	if _, ok := entries[e.Number]; !ok {
		return nil, fmt.Errorf("entry %d is not in the log: %w", e.Number, cmp.Or(err, xapi.ErrOutcomeUnknown))
	}
	return entries, nil
}

// clean removes the entries below a number. One that stays is of no harm, and goes with the next.
func (p Place) clean(ctx context.Context, entries map[uint64]Entry, below uint64) error {
	for number, e := range entries {
		if number >= below {
			continue
		}
		if err := p.API.Call(ctx, "VM.remove_from_other_config", nil, p.VM, e.key()); err != nil {
			return err
		}
	}
	return nil
}

// Await waits until the lease may be taken, and returns the entry that counts then. It is a *BusyError as soon as its holder has shown to
// live. over reports that a holder is known to be dead.
func (p Place) Await(ctx context.Context, over func(context.Context, Holder) bool) (former Entry, err error) {
	former, _, _, err = p.await(ctx, over)
	return former, err
}

// await is Await, with the pool's time and a moment before that was read.
func (p Place) await(ctx context.Context, over func(context.Context, Holder) bool) (former Entry, began, now time.Time, err error) {
	var seen Entry
	var since time.Time
	for {
		began = time.Now()
		if now, err = p.clock(ctx); err != nil {
			return former, began, now, err
		}
		entries, err := p.read(ctx)
		if err != nil {
			return former, began, now, err
		}
		former = newest(entries)
		switch {
		case former.Free() || !now.Before(former.Until) || over(ctx, former.Holder):
			return former, began, now, nil
		case since.IsZero():
			seen, since = former, time.Now()
		case !former.is(seen):
			return former, began, now, &BusyError{former}
		case elapsed(since) >= p.time():
			return former, began, now, nil
		}
		select {
		case <-time.After(p.time() / 30):
		case <-ctx.Done():
			return former, began, now, context.Cause(ctx)
		}
	}
}

// Clear removes all entries from a VM that is not, or no longer, a replica.
func Clear(ctx context.Context, api xapi.API, vm xapi.Ref, otherConfig map[string]string) error {
	p := Place{API: api, VM: vm}
	entries := log(otherConfig)
	return p.clean(ctx, entries, newest(entries).Number+1)
}
