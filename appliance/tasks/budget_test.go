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

// Whatever tasks come and go, what is granted stays within its bounds, and one that is alone always has its turn.
func TestBudgetIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ended := cancelled()
		var b budget
		var grants, tables []int64
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0: // a transfer starts, if it can at once
				c := claim{rapid.IntRange(1, control.MaxTransfers).Draw(t, "parallel"), rapid.SampledFrom([]int64{transfer.MinMemory, mostLeast}).Draw(t, "least")}
				granted, err := b.acquire(ended, c)
				if err == nil {
					grants = append(grants, granted)
				}
				if err == nil && (granted < c.least || granted > transfer.DefaultMemory || len(grants) > c.parallel) {
					t.Fatalf("%+v got %d, %d run", c, granted, len(grants))
				}
			case 1:
				if len(grants) > 0 {
					b.release(grants[0])
					grants = grants[1:]
				}
			case 2:
				bytes := rapid.Int64Range(0, 40<<20).Draw(t, "bytes")
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
			for _, granted := range grants {
				total += granted
			}
			for _, bytes := range tables {
				reserved += bytes
			}
			if total > bufferBytes || total+reserved > memoryBytes || len(grants) > control.MaxTransfers {
				t.Fatalf("%d transfers with %d bytes, %d reserved", len(grants), total, reserved)
			}
			if total != b.buffers || reserved != b.tables || len(grants) != b.running {
				t.Fatalf("accounts are %d, %d, %d; want %d, %d, %d", b.buffers, b.tables, b.running, total, reserved, len(grants))
			}
		}
		for _, granted := range grants {
			b.release(granted)
		}
		for parallel := 1; parallel <= control.MaxTransfers; parallel++ {
			late, cancel := context.WithTimeout(context.Background(), time.Second)
			granted, err := b.acquire(late, claim{parallel, mostLeast})
			cancel()
			if err != nil {
				t.Fatalf("alone with %d bytes reserved: %v", b.tables, err)
			}
			b.release(granted)
		}
	})
}

// take acquires or fails the test; it does not wait.
func take(t *testing.T, b *budget, c claim) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	granted, err := b.acquire(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	return granted
}

func TestSlotsFit(t *testing.T) {
	for parallel := 1; parallel <= control.MaxTransfers; parallel++ {
		var b budget
		for range parallel {
			if granted := take(t, &b, claim{parallel, transfer.MinMemory}); granted != transfer.DefaultMemory/int64(parallel) {
				t.Errorf("one of %d got %d bytes", parallel, granted)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if _, err := b.acquire(ctx, claim{parallel, transfer.MinMemory}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one more than %d: %v", parallel, err)
		}
		cancel()
	}
}

// Digests lessen the part of each; they do not take slots away while each has what it needs.
func TestDigestsLessenTheParts(t *testing.T) {
	for _, test := range []struct {
		tables   int64
		parallel int
		want     []int64
	}{
		{16 << 20, 1, []int64{40 << 20}},
		{32 << 20, 1, []int64{24 << 20}},
		{16 << 20, 2, []int64{20 << 20, 20 << 20}},
		{20 << 20, 4, []int64{12 << 20, 12 << 20, 12 << 20}},
	} {
		var b budget
		if err := b.reserve(test.tables); err != nil {
			t.Fatal(err)
		}
		for _, want := range test.want {
			if granted := take(t, &b, claim{test.parallel, transfer.MinMemory}); granted != want {
				t.Errorf("%d bytes of digests, %d at once: granted %d, want %d", test.tables, test.parallel, granted, want)
			}
		}
		if granted, err := b.acquire(cancelled(), claim{control.MaxTransfers, transfer.MinMemory}); err == nil {
			t.Errorf("%d bytes of digests: one more got %d", test.tables, granted)
		}
	}
}

func TestWindow(t *testing.T) {
	for parallel, want := range map[int]int{0: netproto.MinWindow, 1: netproto.DefaultWindow, 2: netproto.DefaultWindow / 2, 4: netproto.MinWindow} {
		if got := window(control.Tuning{Parallel: parallel}); got != want {
			t.Errorf("window of one of %d is %d, want %d", parallel, got, want)
		}
	}
}

// What needs two ends' buffers claims them; the index is divided.
func TestClaims(t *testing.T) {
	for _, test := range []struct {
		spec  control.TaskSpec
		least int64
		index int64
	}{
		{control.TaskSpec{Kind: control.KindReceive}, transfer.MinMemory, indexBytes / control.MaxTransfers},
		{control.TaskSpec{Kind: control.KindReceive, Seeds: make([]control.Seed, 1)}, mostLeast, indexBytes / control.MaxTransfers},
		{control.TaskSpec{Kind: control.KindCopy, Tuning: control.Tuning{Parallel: 1}}, mostLeast, indexBytes},
	} {
		if got := claimOf(&test.spec).least; got != test.least {
			t.Errorf("%s with %d seeds claims %d, want %d", test.spec.Kind, len(test.spec.Seeds), got, test.least)
		}
		if got := index(test.spec.Tuning); got != test.index {
			t.Errorf("its index is %d bytes, want %d", got, test.index)
		}
	}
}

func TestTurnsAreInOrder(t *testing.T) {
	var b budget
	alone := claim{1, transfer.MinMemory}
	held := take(t, &b, alone)
	turns := make(chan int, 3)
	for i := range 3 {
		go func() {
			if granted, err := b.acquire(context.Background(), alone); err == nil {
				turns <- i
				b.release(granted)
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
