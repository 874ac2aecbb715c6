package lease

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// Lease is a lease that was taken. It is safe for concurrent use.
type Lease struct {
	// Former is the entry that was built upon. When it was not released, its holder's delegates may still be at work.
	Former Entry

	place Place

	changing sync.Mutex // held while the log is changed
	pending  *attempt   // a renewal whose outcome is not known; guarded by changing
	history  string     // the run whose entries come back by a revert; guarded by changing

	mu    sync.Mutex
	mine  attempt // what the lease rests on
	ended error   // set for good when it is lost or was given back

	stop func() // of Keep; nil: it is not kept
}

// attempt is an entry with a moment before the pool's clock was read for it.
type attempt struct {
	entry Entry
	began time.Time
}

var errReleased = errors.New("it was given back")

// Take takes the lease. While another one has it, it waits for at most Time, in which a holder that lives renews: *BusyError. over reports
// that a holder is known to be dead, so that it needs no waiting. Keep keeps the lease then; Release, Clear or Leave end it.
func Take(ctx context.Context, p Place, me Holder, over func(context.Context, Holder) bool) (*Lease, error) {
	if err := me.validate(); err != nil {
		return nil, err
	}
	token := rand.Text()
	for {
		former, began, now, err := p.await(ctx, over)
		if err != nil {
			return nil, err
		}
		mine := attempt{Entry{Number: former.Number + 1, Holder: me, Until: now.Add(p.time()), token: token}, began}
		entries, err := p.insist(ctx, mine)
		if err != nil {
			return nil, err
		}
		if newest(entries).is(mine.entry) {
			_ = p.clean(ctx, entries, mine.entry.Number)
			return &Lease{Former: former, place: p, mine: mine}, nil
		}
	}
}

// insist adds an entry, again and again while its outcome is unknown and it is of use.
func (p Place) insist(ctx context.Context, a attempt) (map[uint64]Entry, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, max(p.valid()-elapsed(a.began), 0),
		fmt.Errorf("the pool did not tell in time whether entry %d was added: %w", a.entry.Number, context.DeadlineExceeded))
	defer cancel()
	for {
		entries, err := p.add(ctx, a.entry)
		switch {
		case err == nil:
			return entries, nil
		case ctx.Err() != nil:
			return nil, errors.Join(context.Cause(ctx), err)
		case !errors.Is(err, xapi.ErrOutcomeUnknown):
			return nil, err
		}
		select {
		case <-time.After(p.time() / 50):
		case <-ctx.Done():
		}
	}
}

// Err is why nothing may be done any more on the strength of the lease; nil while it is held.
func (l *Lease) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended == nil && elapsed(l.mine.began) >= l.place.valid() {
		l.ended = &LostError{"it could not be renewed in time"}
	}
	return l.ended
}

// Guard lets a call that may change something through for as long as the lease is held.
func (l *Lease) Guard(api xapi.API) xapi.API { return xapi.Guard(api, l.Err) }

// lose ends the lease, unless it has ended.
func (l *Lease) lose(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended == nil {
		l.ended = err
	}
	return l.ended
}

// Renew adds another entry. Any error but a *LostError may be followed by another attempt.
func (l *Lease) Renew(ctx context.Context) error {
	l.changing.Lock()
	defer l.changing.Unlock()
	if err := l.Err(); err != nil {
		return err
	}
	if l.pending == nil {
		began := time.Now()
		now, err := l.place.clock(ctx)
		if err != nil {
			return err
		}
		next := attempt{l.mine.entry, began}
		next.entry.Number++
		next.entry.Until = now.Add(l.place.time())
		l.pending = &next
	}
	ctx, cancel := context.WithTimeout(ctx, max(l.place.valid()-elapsed(l.mine.began), 0))
	defer cancel()
	entries, err := l.place.add(ctx, l.pending.entry)
	for err == nil && l.above(entries) >= l.pending.entry.Number {
		l.pending.entry.Number = l.above(entries) + 1
		entries, err = l.place.add(ctx, l.pending.entry)
	}
	if err != nil {
		return err
	}
	if taken := l.conflict(entries, *l.pending); taken.Number > 0 {
		return l.lose(&LostError{fmt.Sprintf("run %s of process %s has it (entry %d)", taken.Run, taken.Process, taken.Number)})
	}
	l.mu.Lock()
	l.mine = *l.pending
	l.mu.Unlock()
	l.pending = nil
	_ = l.place.clean(ctx, entries, l.mine.entry.Number)
	return nil
}

// above is the highest number of an entry that a revert brought back. It is above this one's when a revert to an older state came before, and
// nobody went on counting after that.
func (l *Lease) above(entries map[uint64]Entry) (number uint64) {
	for n, e := range entries {
		if l.history != "" && e.Run == l.history {
			number = max(number, n)
		}
	}
	return number
}

// conflict finds who else has, or had, the lease since it was this one's. Entries below it are nobody's, or those of one that came too
// late, unless the log was set back: then they may be of one who found it free.
func (l *Lease) conflict(entries map[uint64]Entry, next attempt) (found Entry) {
	setBack := !entries[l.mine.entry.Number].is(l.mine.entry)
	for number, e := range entries {
		known := e.token == next.entry.token || e.token == l.Former.token || e.Run == l.history
		if number > next.entry.Number || number == next.entry.Number && !e.is(next.entry) || number < next.entry.Number && setBack && !known {
			return e
		}
	}
	return Entry{}
}

// SetBack says that the VM will be set back to how it was when a run had the lease: what comes back of that run's entries is history.
// Renew when it was.
func (l *Lease) SetBack(run string) {
	l.changing.Lock()
	defer l.changing.Unlock()
	l.history = run
}

// Keep renews the lease until it is lost, which it tells, or it ends.
func (l *Lease) Keep(ctx context.Context, lost func(error)) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	l.stop = func() {
		cancel()
		<-ended
	}
	go func() {
		defer close(ended)
		every := l.place.valid() / 3
		pause := every
		for {
			select {
			case <-time.After(min(pause, l.remaining())):
			case <-ctx.Done():
				return
			}
			err := l.Renew(ctx)
			pause = every
			if err == nil || ctx.Err() != nil {
				continue
			}
			if err := l.Err(); err != nil {
				lost(err)
				return
			}
			pause = every / 8
		}
	}()
}

// remaining is how long the lease is held without another renewal.
func (l *Lease) remaining() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.place.valid()-elapsed(l.mine.began), 0)
}

// Leave stops keeping the lease without giving it back: whoever takes it next waits until it runs out, or knows that its holder is dead, and
// looks for what was left behind. It, Release or Clear comes after the last that is done on the strength of the lease.
func (l *Lease) Leave() {
	if l.stop != nil {
		l.stop()
		l.stop = nil
	}
	_ = l.lose(errReleased)
}

// Release gives the lease back: whoever takes it next need not look for what was left behind. When it cannot be told to the pool the
// lease runs out.
func (l *Lease) Release(ctx context.Context) error {
	defer l.Leave()
	if l.stop != nil {
		l.stop()
		l.stop = nil
	}
	if l.pending != nil && l.Err() == nil { // the last entry must be one that is known to be there
		if err := l.Renew(ctx); err != nil {
			return err
		}
	}
	if err := l.Err(); errors.Is(err, errReleased) {
		return nil
	} else if err != nil {
		return err
	}
	_ = l.lose(errReleased) // nothing more is done by it from here on
	last := attempt{l.mine.entry, l.mine.began}
	last.entry.Number++
	last.entry.Until = time.Time{}
	entries, err := l.place.insist(ctx, last)
	if err == nil {
		_ = l.place.clean(ctx, entries, last.entry.Number)
	}
	return err
}

// Clear ends the lease and removes it, with all that was ever noted of it: the VM is no replica any more.
func (l *Lease) Clear(ctx context.Context) error {
	if err := l.Err(); err != nil {
		return err
	}
	l.Leave()
	entries, err := l.place.read(ctx)
	if err != nil {
		return err
	}
	return l.place.clean(ctx, entries, newest(entries).Number+1)
}
