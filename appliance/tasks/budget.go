package tasks

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

const (
	// bufferBytes are shared by the buffers of all transfers, so that the least that each can work with is always there: else a disk
	// could have its turn at one end and not at the other.
	bufferBytes = control.MaxTransfers * transfer.MinMemory
	// memoryBytes are shared by buffers and extent digests; large digests cost turns. What is left of the delegate's 96 MiB (design §4)
	// is for journals, TLS, the program and the collector.
	memoryBytes = bufferBytes + 8<<20
	// indexBytes are shared by the indexes of content that can be copied. One alone holds every block of 32 GiB; the fourth part that
	// each of four has leaves out all but one block in 256 on a disk of 2 TiB, which still finds a moved file nearly whole.
	indexBytes = 8 << 20
)

// budget deals out slots and memory, first come first served.
type budget struct {
	mu      sync.Mutex
	tables  int64 // reserved for extent digests
	buffers int64 // given to running transfers
	running int
	queue   []*turn
}

// claim is what a transfer asks for.
type claim struct {
	parallel int   // how many are meant to run at once, itself among them
	least    int64 // bytes of buffers that it cannot work without, at most mostLeast
}

// mostLeast is the largest claim.least: both ends of a copy are here, and seeds are read beside the target.
const mostLeast = 2 * transfer.MinMemory

// claimOf returns what a task's transfer asks for.
func claimOf(spec *control.TaskSpec) claim {
	c := claim{parallel: parallel(spec.Tuning), least: transfer.MinMemory}
	if spec.Kind == control.KindCopy || len(spec.Seeds) > 0 {
		c.least = mostLeast
	}
	return c
}

func parallel(t control.Tuning) int { return cmp.Or(t.Parallel, control.MaxTransfers) }

// window is how many bytes a peer may send ahead on a connection of a task that is tuned so. They come on top of the buffers, so
// that tasks which run at once divide what one alone may use, in whatever order they start.
func window(t control.Tuning) int {
	return max(netproto.DefaultWindow/parallel(t), netproto.MinWindow)
}

// index is how many bytes a task's index may take, divided as the window is.
func index(t control.Tuning) int64 { return int64(indexBytes / parallel(t)) }

// turn is one who waits for a slot and buffers.
type turn struct {
	claim
	granted int64         // bytes of buffers; set before come is closed
	come    chan struct{} // closed when the slot is given
}

// reserve takes memory for extent digests. It leaves room for one transfer of any kind, so that a task whose digests are here gets
// its turn when no other runs.
func (b *budget) reserve(bytes int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	free := max(0, memoryBytes-b.tables-max(b.buffers, mostLeast))
	if bytes > free {
		return fmt.Errorf("the extent digests of this task take %d bytes, %d are free: wait for other tasks to end, use another delegate, or run without known digests and trust", bytes, free)
	}
	b.tables += bytes
	return nil
}

// unreserve gives memory for extent digests back.
func (b *budget) unreserve(bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tables -= bytes
	b.serve()
}

// acquire waits for a slot and returns how many bytes of buffers go with it; release gives both back. It is the claim's part of
// what extent digests leave of the memory, or what others leave of that, and never less than the claim's least.
func (b *budget) acquire(ctx context.Context, c claim) (granted int64, err error) {
	mine := &turn{claim: c, come: make(chan struct{})}
	b.mu.Lock()
	b.queue = append(b.queue, mine)
	b.serve()
	b.mu.Unlock()
	select {
	case <-mine.come:
		return mine.granted, nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.queue, mine); i >= 0 {
		b.queue = slices.Delete(b.queue, i, i+1)
		b.serve()
	} else { // the turn came at the same moment
		b.giveBack(mine.granted)
	}
	return 0, context.Cause(ctx)
}

// release gives a slot back with what acquire granted.
func (b *budget) release(granted int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.giveBack(granted)
}

func (b *budget) giveBack(granted int64) {
	b.running--
	b.buffers -= granted
	b.serve()
}

// serve gives slots to those who wait, in order. b.mu is held.
func (b *budget) serve() {
	memory := min(bufferBytes, memoryBytes-b.tables)
	for len(b.queue) > 0 {
		next := b.queue[0]
		free := memory - b.buffers
		if b.running >= next.parallel || free < next.least {
			return
		}
		next.granted = min(max(memory/int64(next.parallel), next.least), free)
		b.running++
		b.buffers += next.granted
		b.queue = b.queue[1:]
		close(next.come)
	}
}
