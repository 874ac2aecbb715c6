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
)

// budget deals out slots and memory, first come first served.
type budget struct {
	mu      sync.Mutex
	tables  int64 // reserved for extent digests
	buffers int64 // given to running transfers
	running int
	queue   []turn
}

// turn is one who waits for a slot with so many bytes of buffers.
type turn struct {
	share int64
	come  chan struct{} // closed when the slot is given
}

// share is what a transfer gets of the buffers when so many run at once; 0 stands for control.MaxTransfers.
func share(parallel int) int64 {
	return min(bufferBytes/int64(cmp.Or(parallel, control.MaxTransfers)), transfer.DefaultMemory)
}

// reserve takes memory for extent digests. It leaves room for one transfer at least.
func (b *budget) reserve(bytes int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	free := max(0, memoryBytes-b.tables-max(b.buffers, transfer.MinMemory))
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

// acquire waits for a slot and share bytes of buffers. They are given back by release.
func (b *budget) acquire(ctx context.Context, share int64) error {
	mine := turn{share, make(chan struct{})}
	b.mu.Lock()
	b.queue = append(b.queue, mine)
	b.serve()
	b.mu.Unlock()
	select {
	case <-mine.come:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.queue, mine); i >= 0 {
		b.queue = slices.Delete(b.queue, i, i+1)
		b.serve()
	} else { // the turn came at the same moment
		b.giveBack(share)
	}
	return context.Cause(ctx)
}

// window is how many bytes a peer may send ahead on the next connection. They come on top of a transfer's share, so that
// several connections divide what one alone may use.
func (b *budget) window() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(netproto.DefaultWindow/max(b.running, 1), netproto.MinWindow)
}

// release gives a slot and its share back.
func (b *budget) release(share int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.giveBack(share)
}

func (b *budget) giveBack(share int64) {
	b.running--
	b.buffers -= share
	b.serve()
}

// serve gives slots to those who wait, in order. b.mu is held.
func (b *budget) serve() {
	for len(b.queue) > 0 && b.running < control.MaxTransfers {
		next := b.queue[0]
		if b.buffers+next.share > min(bufferBytes, memoryBytes-b.tables) {
			return
		}
		b.running++
		b.buffers += next.share
		b.queue = b.queue[1:]
		close(next.come)
	}
}
