package netproto

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Frame is one received frame of the application. Its Payload is valid until Release.
type Frame struct {
	Type    Type
	Payload []byte

	buffer     *buffer
	generation uint32
}

// Release gives the buffer back and, for a bulk frame, lets the peer send as much again. It may be called from any goroutine,
// after the connection's end too; calling it twice does no harm. A frame that is never released costs its share of the window
// for ever.
func (f Frame) Release() {
	b := f.buffer
	if b == nil || !b.generation.CompareAndSwap(f.generation, f.generation+1) {
		return
	}
	conn, cost := b.conn, frameCost(len(f.Payload))
	b.conn = nil
	if b.large {
		largest.free <- b // which has room for all of them
	} else {
		pools[b.class].Put(b)
	}
	if conn != nil {
		conn.release(cost)
	}
}

// buffer holds a payload at its end, which of a large one lies at a multiple of alignment: content whose length is a multiple of it, and that ends a
// payload, is fit for direct I/O as it lies, whatever stands before it. Its generation goes up at each release, so that a Frame released before cannot touch its next use.
type buffer struct {
	bytes      []byte
	class      int
	large      bool // it is one of largest
	generation atomic.Uint32
	conn       *Conn // whose window the frame counts in; nil unless bulk
}

// Buffers come in powers of two from 256 bytes to 1 MiB, and MaxPayload.
const (
	smallestBuffer = 256
	bufferClasses  = 14

	alignment = 4096
	alignFrom = 64 << 10 // bytes of a buffer
)

var pools [bufferClasses]sync.Pool

func bufferClass(size int) int {
	return bits.Len(uint(max(size, 1)-1) / smallestBuffer)
}

// newFrame returns a frame with room for size bytes, at most MaxPayload. A bulk frame counts in conn's window.
func newFrame(conn *Conn, t Type, size int) Frame {
	class := bufferClass(size)
	var b *buffer
	if class == bufferClasses-1 {
		b = largest.take()
	}
	if b == nil {
		b, _ = pools[class].Get().(*buffer)
	}
	if b == nil {
		b = &buffer{bytes: newBytes(min(smallestBuffer<<class, MaxPayload)), class: class}
	}
	if t.Bulk() {
		b.conn = conn
	}
	return Frame{Type: t, Payload: b.bytes[len(b.bytes)-size:], buffer: b, generation: b.generation.Load()}
}

// largest are the first buffers of the largest class, which a process keeps once it has needed one. They lie side by side on huge pages, as
// blockio's do and for the same reason: what they hold is written to disks from where it lies.
var largest largeBuffers

type largeBuffers struct {
	make sync.Once
	free chan *buffer
}

const (
	largeCount = 12 // a window, and what is written meanwhile
	hugePage   = 2 << 20
)

// take returns a buffer; nil when all are in use.
func (l *largeBuffers) take() *buffer {
	l.make.Do(func() {
		const stride = (MaxPayload + alignment - 1) / alignment * alignment
		const size = (largeCount*stride + hugePage - 1) / hugePage * hugePage
		memory := make([]byte, size+hugePage)
		memory = memory[-uintptr(unsafe.Pointer(&memory[0]))%hugePage:][:size]
		_ = unix.Madvise(memory, unix.MADV_HUGEPAGE) // an advice: on small pages all works as well
		l.free = make(chan *buffer, largeCount)
		for i := range largeCount {
			end := (i + 1) * stride
			l.free <- &buffer{bytes: memory[end-MaxPayload : end : end], class: bufferClasses - 1, large: true}
		}
	})
	select {
	case b := <-l.free:
		return b
	default:
		return nil
	}
}

// newBytes makes the memory of a buffer.
func newBytes(size int) []byte {
	if size < alignFrom {
		return make([]byte, size)
	}
	memory := make([]byte, size+alignment) // does not move: an address once aligned stays so
	end := uintptr(unsafe.Pointer(&memory[0])) + uintptr(len(memory))
	last := len(memory) - int(end%alignment)
	return memory[last-size : last : last]
}
