package blockio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// DefaultQueueDepth is the number of reads a Scanner keeps in flight unless told otherwise. A Xen front end splits each of them into
// requests of 44 KiB, so that less would leave a fast back end idle (design §4, Reading).
const DefaultQueueDepth = 16

// ScanOptions says what a Scanner reads, and how.
type ScanOptions struct {
	QueueDepth int   // reads in flight; default DefaultQueueDepth
	Start, End int64 // the bytes to read, End 0 being the device's size. Start is best a multiple of Alignment

	// Only, when set, says what of them to read: chunks without a marked byte are left out, and of the others the bytes that are not
	// marked are undefined. It must not change during the scan.
	Only *AllocationMap

	// Pool gives the buffers; nil makes one that lets the caller hold QueueDepth chunks. A Scanner holds at most 3/2 × QueueDepth
	// buffers besides the chunks it has handed out: scanners that share a pool and are read by one goroutine need as many each,
	// or one may wait for buffers that another has filled in advance.
	Pool *Pool
}

// Chunk is a piece of a device: RequestSize bytes, the last one of a scan maybe less. It starts a multiple of RequestSize after the
// scan's start.
type Chunk struct {
	Off  int64  // in bytes
	Data []byte // valid until Release

	buffer []byte
	pool   *Pool
}

// Release gives the chunk's buffer back, at any time, also after the Scanner's Close. Releasing again does nothing, but two
// goroutines must not release one chunk at the same time.
func (c *Chunk) Release() {
	if c.pool == nil {
		return
	}
	c.pool.Put(c.buffer)
	c.Data, c.buffer, c.pool = nil, nil, nil
}

// Readable is what a Scanner needs of a device.
type Readable interface {
	io.ReaderAt
	Size() int64
}

// Scanner reads a device in order with several requests in flight. Reads are numbered as workers take them; each leaves its result in the
// slot of its number, and Next empties the slots in turn:
//
//	window ──▶ worker: buffer, next number n, ReadAt ──▶ slots[n % len] ──▶ Next (n = 0, 1, 2, …)
//	   ▲                                                                     │
//	   └─────────────── one more may be read ────────────────────────────────┘
//
// The window is larger than the queue depth, so that a slow read at its head does not at once idle the device.
type Scanner struct {
	dev    Readable
	start  int64
	end    int64
	only   *AllocationMap // nil: everything
	pool   *Pool
	ctx    context.Context
	cancel context.CancelCauseFunc

	window  chan struct{} // one element for each read begun and not yet handed out
	slots   []chan scanned
	failed  atomic.Bool // a read has failed: reading on would be in vain
	workers sync.WaitGroup

	mu    sync.Mutex
	begun int64 // number of the next read
	place int64 // chunk that it reads: the one at start + place × RequestSize, or where that is not marked a later one

	delivered int64 // number of the chunk that Next returns next
	off       int64 // where that may lie at the earliest
	err       error // what Next returns from now on
}

type scanned struct {
	chunk *Chunk
	err   error
}

// NewScanner starts reading dev. It ends with the context; Close must be called in any case. Options that do not fit the device are reported
// by the first Next.
func NewScanner(ctx context.Context, dev Readable, o ScanOptions) *Scanner {
	s := &Scanner{dev: dev, start: o.Start, off: o.Start, end: o.End, only: o.Only, pool: o.Pool}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	if s.end == 0 {
		s.end = dev.Size()
	}
	if s.only != nil && s.only.Size() < s.end {
		s.err = fmt.Errorf("blockio: scan to %d: %w of a device of %d bytes", s.end, ErrMap, s.only.Size())
		return s
	}
	if s.start < 0 || s.start > s.end || s.end > dev.Size() {
		s.err = fmt.Errorf("blockio: scan from %d to %d of a device of %d bytes: %w", s.start, s.end, dev.Size(), ErrOutOfRange)
		return s
	}
	depth := o.QueueDepth
	if depth <= 0 {
		depth = DefaultQueueDepth
	}
	window := depth + (depth+1)/2
	if s.pool == nil {
		s.pool = NewPool(window + depth)
	}
	s.window = make(chan struct{}, window)
	s.slots = make([]chan scanned, window)
	for i := range s.slots {
		s.slots[i] = make(chan scanned, 1)
	}
	reads := (s.end - s.start + RequestSize - 1) / RequestSize
	for range min(int64(depth), reads) {
		s.workers.Go(s.work)
	}
	return s
}

// work reads until the end, a failure or the context's end.
func (s *Scanner) work() {
	for !s.failed.Load() {
		select {
		case s.window <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		// The buffer comes before the number: the read that Next waits for must never be without one while later reads hold them all.
		buffer, err := s.pool.Get(s.ctx)
		if err != nil {
			return
		}
		number, off := s.take()
		if off >= s.end {
			s.pool.Put(buffer)
			return
		}
		// Never blocks: a number is at most the window's size ahead of the chunk that was delivered last.
		s.slots[number%int64(len(s.slots))] <- s.read(buffer, off)
	}
}

// take numbers the next read and returns the offset of its chunk; s.end when there is none.
func (s *Scanner) take() (number, off int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	off = s.from(s.start + s.place*RequestSize)
	if off < s.end {
		number = s.begun
		s.begun++
		s.place = (off-s.start)/RequestSize + 1
	}
	return number, off
}

// from returns the offset of the first chunk at or after off that is to be read; s.end when there is none.
func (s *Scanner) from(off int64) int64 {
	if s.only == nil {
		return min(off, s.end)
	}
	marked := s.only.next(off, s.end, 0)
	if marked >= s.end {
		return s.end
	}
	return off + (marked-off)/RequestSize*RequestSize
}

func (s *Scanner) read(buffer []byte, off int64) scanned {
	data := buffer[:min(RequestSize, s.end-off)]
	if s.only == nil {
		if err := s.fill(data, off); err != nil {
			return s.fail(buffer, err)
		}
	} else {
		for at, length := range s.only.Within(off, int64(len(data))) {
			if err := s.fill(data[at-off:at-off+length], at); err != nil {
				return s.fail(buffer, err)
			}
		}
	}
	return scanned{chunk: &Chunk{Off: off, Data: data, buffer: buffer, pool: s.pool}}
}

func (s *Scanner) fail(buffer []byte, err error) scanned {
	s.failed.Store(true)
	s.pool.Put(buffer)
	return scanned{err: err}
}

func (s *Scanner) fill(data []byte, off int64) error {
	n, err := s.dev.ReadAt(data, off)
	if n == len(data) && (err == nil || errors.Is(err, io.EOF)) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		// The end of the scan lies within the device, and io.EOF is kept for it.
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("blockio: scan: read %d bytes at offset %d: %w", len(data), off, err)
}

// Next returns the next chunk in order of offset, which the caller must release. It returns io.EOF after the last one, the error of a
// read in that read's place, the context's cause once it has ended and ErrClosed after Close; and the same error ever after. While
// no buffer is free it waits for a Release. Only one goroutine may call it.
func (s *Scanner) Next() (*Chunk, error) {
	if s.off = s.from(s.off); s.err == nil && s.off >= s.end {
		s.err = io.EOF
	}
	if s.err == nil && s.ctx.Err() != nil {
		s.err = s.ended()
	}
	if s.err != nil {
		return nil, s.err
	}
	select {
	case result := <-s.slots[s.delivered%int64(len(s.slots))]:
		s.delivered++
		s.off += RequestSize
		<-s.window
		s.err = result.err
		return result.chunk, result.err
	case <-s.ctx.Done():
		s.err = s.ended()
		return nil, s.err
	}
}

func (s *Scanner) ended() error {
	return fmt.Errorf("blockio: scan: stopped before offset %d: %w", s.off, context.Cause(s.ctx))
}

// Close stops the scan and waits for its reads. Chunks that were handed out stay valid until their Release. Closing again does nothing;
// a Next that waits in another goroutine returns.
func (s *Scanner) Close() error {
	s.cancel(ErrClosed)
	s.workers.Wait()
	for _, slot := range s.slots {
		select {
		case result := <-slot:
			if result.chunk != nil {
				result.chunk.Release()
			}
		default:
		}
	}
	return nil
}
