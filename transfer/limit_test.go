package transfer_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

// bottomless is a connection that takes everything at once.
type bottomless struct {
	transfer.Conn
	bytes int
}

func (c *bottomless) WriteFrame(_ context.Context, _ netproto.Type, payload ...[]byte) error {
	for _, p := range payload {
		c.bytes += len(p)
	}
	return nil
}

func (c *bottomless) Stats() netproto.Stats { return netproto.Stats{} }

// bulk and plain are types of frames that do and do not wait.
const (
	bulk  netproto.Type = 0x80
	plain netproto.Type = 0x12
)

func write(t *testing.T, c transfer.Conn, typ netproto.Type, n int) {
	t.Helper()
	if err := c.WriteFrame(t.Context(), typ, make([]byte, n)); err != nil {
		t.Fatal(err)
	}
}

func TestLimiterIsSharedAndFollowsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := new(transfer.Limiter)
		a, b := limiter.Conn(&bottomless{}), limiter.Conn(&bottomless{})
		began := time.Now()
		for range 100 {
			write(t, a, bulk, 1<<20)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("without a limit 100 MiB took %v", took)
		}
		limiter.Set(10 << 20)
		for range 20 {
			write(t, a, bulk, 1<<20)
			write(t, b, bulk, 1<<20)
		}
		if took := time.Since(began); took < 3900*time.Millisecond || took > 4*time.Second {
			t.Errorf("40 MiB at 10 MiB/s took %v, the last frame's pause not included", took)
		}
		if blocked := a.Stats().WriteBlocked + b.Stats().WriteBlocked; blocked != time.Since(began) {
			t.Errorf("%v counted as blocked in %v", blocked, time.Since(began))
		}
		limiter.Set(1)
		go func() {
			time.Sleep(time.Minute)
			limiter.Set(1 << 30)
		}()
		began = time.Now()
		write(t, a, bulk, 1)
		if took := time.Since(began); took != time.Minute && took > time.Minute+time.Second {
			t.Errorf("a frame that waited when the limit was raised after a minute took %v", took)
		}
	})
}

func TestLimiterCountsOtherFramesAndLetsThemPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := new(transfer.Limiter)
		limiter.Set(1 << 20)
		c := limiter.Conn(&bottomless{})
		began := time.Now()
		for range 1024 {
			write(t, c, plain, 1<<10)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("frames that are not bulk waited %v", took)
		}
		write(t, c, bulk, 1)
		if took := time.Since(began); took < time.Second || took > 1100*time.Millisecond {
			t.Errorf("a bulk frame after 1 MiB of others waited %v, want a second", took)
		}
	})
}

func TestLimiterEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := new(transfer.Limiter)
		limiter.Set(1)
		c := limiter.Conn(&bottomless{})
		write(t, c, bulk, 1<<20)
		gone := errors.New("gone")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, gone)
		defer cancel()
		if err := c.WriteFrame(ctx, bulk, []byte{1}); !errors.Is(err, gone) {
			t.Errorf("error %v, want the context's cause", err)
		}
	})
}
