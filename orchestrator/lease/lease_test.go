package lease_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/lease"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

func take(t *testing.T, p *pool, run string) *lease.Lease {
	t.Helper()
	l, err := lease.Take(t.Context(), p.place(), lease.Holder{Process: "here:7:boot/9", Run: run}, nobodyIsDead)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestTakeRenewRelease goes through the life of a lease, and counts its calls.
func TestTakeRenewRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool()
		p.config["understudy:kind"] = "replica"
		first := take(t, p, "first")
		if first.Former.Number != 0 || first.Former.Unclean() {
			t.Errorf("built upon %+v", first.Former)
		}
		first.Keep(t.Context(), func(err error) { t.Error(err) })
		time.Sleep(10 * lease.Time)
		if e := lease.Newest(p.log()); e.Number < 30 || e.Number > 45 || e.Run != "first" || first.Err() != nil {
			t.Errorf("after ten times its time: %+v, %v", e, first.Err())
		}
		if _, err := lease.Take(t.Context(), p.place(), lease.Holder{Process: "there:8:boot/9", Run: "second"}, nobodyIsDead); !errors.As(err, new(*lease.BusyError)) ||
			!strings.Contains(err.Error(), "run first of process here:7:boot/9") {
			t.Errorf("beside the first: %v", err)
		}
		if err := first.Release(t.Context()); err != nil {
			t.Error(err)
		}
		clear(p.calls) // nobody renews any more
		second := take(t, p, "second")
		if second.Former.Run != "first" || second.Former.Unclean() || first.Err() == nil {
			t.Errorf("built upon %+v; the first: %v", second.Former, first.Err())
		}
		if err := second.Release(t.Context()); err != nil {
			t.Error(err)
		}
		calls := 0
		for _, n := range p.calls {
			calls += n
		}
		if calls > 8 || len(p.config) != 2 {
			t.Errorf("to take and release it took %v, and left %v", p.calls, p.config)
		}
		third := take(t, p, "third")
		if err := third.Clear(t.Context()); err != nil || len(p.config) != 1 {
			t.Errorf("cleared it left %v, %v", p.config, err)
		}
	})
}

// TestDeadAndHanging: a holder that is known to be dead is not waited for, another one is until its time has passed; and whatever it does
// when it wakes up is refused.
func TestDeadAndHanging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool()
		hanging := take(t, p, "hanging") // it does not renew
		guarded := hanging.Guard(p)
		began := time.Now()
		next := take(t, p, "next")
		if waited := time.Since(began); waited < lease.Time || waited > lease.Time+5*time.Second || !next.Former.Unclean() {
			t.Errorf("waited %v, built upon %+v", waited, next.Former)
		}
		if err := guarded.Call(t.Context(), "VM.remove_from_other_config", nil, xapi.Ref("replica"), "understudy:lease.2"); !errors.As(err, new(*lease.LostError)) {
			t.Errorf("who has lost the lease may write: %v", err)
		}
		if err := guarded.Call(t.Context(), "VM.get_other_config", nil, xapi.Ref("replica")); err != nil {
			t.Error(err)
		}
		if err := hanging.Renew(t.Context()); err == nil {
			t.Error("it was renewed after it had run out")
		}
		began = time.Now()
		last, err := lease.Take(t.Context(), p.place(), lease.Holder{Process: "there:8:boot/9", Run: "last"}, func(_ context.Context, h lease.Holder) bool { return h.Run == "next" })
		if err != nil || time.Since(began) > 0 || !last.Former.Unclean() {
			t.Errorf("of a dead one: %v after %v", err, time.Since(began))
		}
	})
}

// TestClockSetBack: an entry of a day to come is not waited for any longer than others.
func TestClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool()
		p.skew = 24 * time.Hour
		take(t, p, "first")
		p.skew = 0
		began := time.Now()
		take(t, p, "second")
		if waited := time.Since(began); waited > lease.Time+5*time.Second {
			t.Errorf("waited %v", waited)
		}
	})
}

// TestLateTaker: an entry that comes when others have come and gone, and its number is free again, gives its sender nothing.
func TestLateTaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool()
		if err := take(t, p, "zeroth").Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.weather = func(method string) (time.Duration, time.Duration, bool) {
			if method == "VM.add_to_other_config" && p.calls[method] == 3 {
				return 20 * time.Second, 0, false
			}
			return 0, 0, false
		}
		ended := make(chan error)
		go func() {
			l, err := lease.Take(t.Context(), p.place(), lease.Holder{Process: "there:8:boot/9", Run: "late"}, nobodyIsDead)
			if err == nil {
				l.Leave()
			}
			ended <- err
		}()
		time.Sleep(time.Second)
		l := take(t, p, "quick")
		l.Keep(t.Context(), func(err error) { t.Error(err) })
		for range 2 {
			if err := l.Renew(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-ended; !errors.As(err, new(*lease.BusyError)) {
			t.Errorf("the late one: %v", err)
		}
		if l.Err() != nil {
			t.Error(l.Err())
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestSetBack: the log is what it was in a snapshot. Its holder goes on, unless somebody took the lease before it could tell.
func TestSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool()
		old := take(t, p, "old")
		snapshot := maps.Clone(p.config)
		if err := old.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		reverting := take(t, p, "reverting")
		number := lease.Newest(p.log()).Number
		reverting.SetBack("old")
		p.config = maps.Clone(snapshot)
		if err := reverting.Renew(t.Context()); err != nil || lease.Newest(p.log()).Number <= number || len(p.config) != 1 {
			t.Errorf("after its own revert: %v, %v", err, p.config)
		}
		// A newer state comes back, after an older one that nobody counted on from: its entry is above all that were added since.
		for high := range maps.Keys(maps.Clone(snapshot)) {
			newer := map[string]string{"understudy:lease.99": snapshot[high]}
			p.config = newer
		}
		if err := reverting.Renew(t.Context()); err != nil || lease.Newest(p.log()).Number != 100 || lease.Newest(p.log()).Run != "reverting" {
			t.Errorf("after a revert to a newer state: %v, %v", err, p.config)
		}
		// Somebody else's revert, long after the snapshot: it looks as if nobody had the lease.
		time.Sleep(lease.Time / 2)
		if err := reverting.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lease.Time / 2)
		p.config = maps.Clone(snapshot)
		thief := take(t, p, "thief")
		if err := reverting.Renew(t.Context()); !errors.As(err, new(*lease.LostError)) || reverting.Err() == nil {
			t.Errorf("it goes on beside the one that found the lease free: %v", err)
		}
		if err := thief.Renew(t.Context()); err == nil {
			t.Error("the other one does not notice")
		}
	})
}
