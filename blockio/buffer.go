package blockio

import (
	"context"
	"sync"
	"unsafe"
)

// AlignedBuffer returns size zero bytes whose first lies at a multiple of Alignment, fit for direct I/O.
func AlignedBuffer(size int) []byte {
	// The garbage collector does not move heap objects, so that an address once aligned stays so.
	memory := make([]byte, size+Alignment)
	start := -addressOf(memory) & (Alignment - 1)
	return memory[start : start+size : start+size]
}

func isAligned(p []byte) bool { return addressOf(p)&(Alignment-1) == 0 }

func addressOf(p []byte) int { return int(uintptr(unsafe.Pointer(unsafe.SliceData(p)))) }

// zeroes holds RequestSize aligned zero bytes to write from.
var zeroes = sync.OnceValue(func() []byte { return AlignedBuffer(RequestSize) })

// bounce holds aligned buffers of RequestSize for requests that cannot go straight to the kernel.
var bounce = sync.Pool{New: func() any { return new(AlignedBuffer(RequestSize)) }}

// Pool is a bounded set of aligned buffers of RequestSize bytes. Their memory is reserved when the first is needed and taken from the system
// as each is first used, and the one used last is handed out first: it may still be in the processor's cache. Safe for concurrent use.
type Pool struct {
	out  chan struct{} // one element for each buffer that is out
	mu   sync.Mutex
	free [][]byte
	rest []byte // of the memory of all buffers, what no buffer was made of yet
	made bool
}

// NewPool makes a pool of so many buffers, at least one.
func NewPool(buffers int) *Pool {
	return &Pool{out: make(chan struct{}, max(buffers, 1))}
}

// Get returns a buffer of RequestSize bytes with undefined content. While all are out it waits for a Put or the context's end,
// whose cause it then returns.
func (p *Pool) Get(ctx context.Context) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	select {
	case p.out <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := len(p.free) - 1; last >= 0 {
		buffer := p.free[last]
		p.free = p.free[:last]
		return buffer, nil
	}
	if !p.made {
		p.rest, p.made = hugeBuffer(cap(p.out)*RequestSize), true
	}
	buffer := p.rest[:RequestSize:RequestSize]
	p.rest = p.rest[RequestSize:]
	return buffer, nil
}

// Put gives a buffer back; it may have been shortened. It panics on a buffer that cannot come from the pool, since going on would hand
// memory to two owners.
func (p *Pool) Put(buffer []byte) {
	if cap(buffer) != RequestSize || !isAligned(buffer[:RequestSize]) {
		panic("blockio: Put of a buffer that is not from a pool")
	}
	// The buffer is stored before its place is freed, so that Get never makes one more than the bound.
	p.mu.Lock()
	p.free = append(p.free, buffer[:RequestSize])
	p.mu.Unlock()
	select {
	case <-p.out:
	default:
		panic("blockio: Put of more buffers than were taken")
	}
}
