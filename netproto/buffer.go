package netproto

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
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
	pools[b.class].Put(b)
	if conn != nil {
		conn.release(cost)
	}
}

// buffer holds a payload at its end, which of a large one lies at a multiple of alignment: content whose length is a multiple of it, and that ends a
// payload, is fit for direct I/O as it lies, whatever stands before it. Its generation goes up at each release, so that a Frame released before cannot touch its next use.
type buffer struct {
	bytes      []byte
	class      int
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
	b, ok := pools[class].Get().(*buffer)
	if !ok {
		b = &buffer{bytes: newBytes(min(smallestBuffer<<class, MaxPayload)), class: class}
	}
	if t.Bulk() {
		b.conn = conn
	}
	return Frame{Type: t, Payload: b.bytes[len(b.bytes)-size:], buffer: b, generation: b.generation.Load()}
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
