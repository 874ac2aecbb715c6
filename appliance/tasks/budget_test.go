package tasks

import (
	"context"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

// Whatever tasks come and go, shares stay within their bounds, and as many run as there are slots unless digests take the memory.
func TestBudgetIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ended := cancelled()
		var b budget
		var shares, tables []int64
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0: // a transfer starts, if it can at once
				bytes := share(rapid.IntRange(0, control.MaxTransfers).Draw(t, "parallel"))
				if b.acquire(ended, bytes) == nil {
					shares = append(shares, bytes)
				}
			case 1:
				if len(shares) > 0 {
					b.release(shares[0])
					shares = shares[1:]
				}
			case 2:
				bytes := rapid.Int64Range(0, 20<<20).Draw(t, "bytes")
				if b.reserve(bytes) == nil {
					tables = append(tables, bytes)
				}
			case 3:
				if len(tables) > 0 {
					b.unreserve(tables[0])
					tables = tables[1:]
				}
			}
			total, reserved := int64(0), int64(0)
			for _, share := range shares {
				if share < transfer.MinMemory || share > transfer.DefaultMemory {
					t.Fatalf("a share of %d", share)
				}
				total += share
			}
			for _, bytes := range tables {
				reserved += bytes
			}
			if total > bufferBytes || total+reserved > memoryBytes || len(shares) > control.MaxTransfers {
				t.Fatalf("%d transfers with %d bytes, %d reserved", len(shares), total, reserved)
			}
			if total != b.buffers || reserved != b.tables || len(shares) != b.running {
				t.Fatalf("accounts are %d, %d, %d; want %d, %d, %d", b.buffers, b.tables, b.running, total, reserved, len(shares))
			}
			if window := b.window(); window < netproto.MinWindow || window > netproto.DefaultWindow {
				t.Fatalf("window is %d", window)
			}
		}
	})
}

// take acquires or fails the test; it does not wait.
func take(t *testing.T, b *budget, parallel int) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	bytes := share(parallel)
	if err := b.acquire(ctx, bytes); err != nil {
		t.Fatal(err)
	}
	return bytes
}

func TestSlotsFit(t *testing.T) {
	for parallel := 1; parallel <= control.MaxTransfers; parallel++ {
		var b budget
		for range parallel {
			take(t, &b, parallel)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if err := b.acquire(ctx, share(1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one more than %d: %v", parallel, err)
		}
		cancel()
	}
	if share(1) != transfer.DefaultMemory || share(0) != share(control.MaxTransfers) || share(control.MaxTransfers) < transfer.MinMemory {
		t.Errorf("shares are %d to %d", share(control.MaxTransfers), share(1))
	}
}

func TestTurnsAreInOrder(t *testing.T) {
	var b budget
	held := take(t, &b, 1)
	turns := make(chan int, 3)
	for i := range 3 {
		go func() {
			if b.acquire(context.Background(), share(1)) == nil {
				turns <- i
				b.release(share(1))
			}
		}()
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) { // until it stands in the queue
			b.mu.Lock()
			n := len(b.queue)
			b.mu.Unlock()
			if n == i+1 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("it does not queue")
			}
		}
	}
	b.release(held)
	for want := range 3 {
		if got := <-turns; got != want {
			t.Errorf("turn of %d, want %d", got, want)
		}
	}
}
