package blockio

import (
	"encoding/binary"
	"io"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// queueDepth is how many requests a file can have under way; more wait for one to end.
const queueDepth = 64

// queue hands direct requests to the kernel and has it say when they are done (io_submit(2), eventfd(2)), instead of waiting in a
// system call for each. A goroutine within a call holds one of the runtime's processors until a watchdog takes it away, which looks every
// 20 µs to 10 ms, and does not notice calls that are shorter than its pause: a delegate with two processors then has two requests under way,
// however many goroutines make them, and reads a fast disk at two thirds of its speed.
//
// It is safe for concurrent use; close comes after the last request.
type queue struct {
	context  uintptr  // aio_context_t
	event    *os.File // what the kernel tells by; File.Fd would make it blocking
	eventFD  uint32
	free     chan int // numbers of requests
	requests [queueDepth]request
	reaper   sync.WaitGroup
}

// request is one place of a queue.
type request struct {
	block  controlBlock
	buffer []byte     // that the kernel works on: kept until it is done
	done   chan int64 // bytes moved, or a negated errno
}

// controlBlock is the kernel's struct iocb (linux/aio_abi.h) on little-endian machines.
type controlBlock struct {
	data       uint64 // comes back with the event: the request's number
	_          uint64 // key, rw_flags
	operation  uint16
	_          int16 // priority
	descriptor uint32
	buffer     uint64 // address
	length     uint64
	offset     int64
	_          uint64 // reserved
	flags      uint32
	eventFD    uint32
}

// completion is the kernel's struct io_event.
type completion struct {
	data   uint64
	_      uint64 // address of the controlBlock
	result int64
	_      int64
}

// Values of linux/aio_abi.h.
const (
	operationRead  = 0
	operationWrite = 1
	flagEventFD    = 1
)

// newQueue returns nil where the kernel has none to give: a program in a sandbox that forbids the calls, or a machine whose fs.aio-max-nr is
// used up. Requests are plain system calls then, which are slower by what the queue's comment says.
func newQueue() *queue {
	q := &queue{free: make(chan int, queueDepth)}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, queueDepth, uintptr(unsafe.Pointer(&q.context)), 0); errno != 0 {
		return nil
	}
	descriptor, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		q.destroy()
		return nil
	}
	q.eventFD, q.event = uint32(descriptor), os.NewFile(uintptr(descriptor), "eventfd") // non-blocking: the runtime waits for it without a thread
	for i := range q.requests {
		q.requests[i].done = make(chan int64, 1)
		q.free <- i
	}
	q.reaper.Go(q.reap)
	return q
}

func (q *queue) destroy() {
	_, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, q.context, 0, 0) // nothing is under way
}

// close frees the queue.
func (q *queue) close() error {
	err := q.event.Close()
	q.reaper.Wait()
	q.destroy()
	return err
}

// reap tells those who wait what became of their requests.
func (q *queue) reap() {
	var (
		count  [8]byte
		events [queueDepth]completion
		now    unix.Timespec
	)
	for {
		if _, err := q.event.Read(count[:]); err != nil {
			return // closed
		}
		for remaining := binary.NativeEndian.Uint64(count[:]); remaining > 0; {
			n, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, q.context, 0, queueDepth, uintptr(unsafe.Pointer(&events)), uintptr(unsafe.Pointer(&now)), 0)
			if errno == unix.EINTR {
				continue
			}
			if errno != 0 || n == 0 {
				break // another reading of the event has brought them already
			}
			for _, e := range events[:n] {
				q.requests[e.data].done <- e.result
			}
			remaining -= min(remaining, uint64(n))
		}
	}
}

// do carries one request out and waits for it. It returns how many bytes were moved, as the system call would.
func (q *queue) do(operation uint16, f *os.File, p []byte, off int64) (int, error) {
	number := <-q.free
	defer func() { q.free <- number }()
	r := &q.requests[number]
	r.buffer = p
	r.block = controlBlock{
		data: uint64(number), operation: operation, descriptor: uint32(f.Fd()), offset: off,
		buffer: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))), length: uint64(len(p)),
		flags: flagEventFD, eventFD: q.eventFD,
	}
	list := &r.block
	if _, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, q.context, 1, uintptr(unsafe.Pointer(&list))); errno != 0 {
		r.buffer = nil
		if errno == unix.EAGAIN { // the kernel lacks memory for the request, not the disk
			return directly(operation, f, p, off)
		}
		return 0, errno
	}
	result := <-r.done
	r.buffer = nil
	if result < 0 {
		return 0, unix.Errno(-result)
	}
	return int(result), nil
}

// directly carries a request out by a system call.
func directly(operation uint16, f *os.File, p []byte, off int64) (int, error) {
	if operation == operationRead {
		return unix.Pread(int(f.Fd()), p, off)
	}
	return unix.Pwrite(int(f.Fd()), p, off)
}

// all repeats a request until all of p is moved, as os.File does.
func (q *queue) all(operation uint16, f *os.File, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		moved, err := q.do(operation, f, p[n:], off+int64(n))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return n, &os.PathError{Op: operationName(operation), Path: f.Name(), Err: err}
		case moved == 0 && operation == operationRead:
			return n, io.EOF
		case moved == 0:
			return n, io.ErrShortWrite
		}
		n += moved
	}
	return n, nil
}

func operationName(operation uint16) string {
	if operation == operationRead {
		return "read"
	}
	return "write"
}

// readSectors and writeSectors move whole sectors from or to aligned memory.
func (d *file) readSectors(p []byte, off int64) (int, error) {
	if d.queue == nil {
		return d.direct.ReadAt(p, off)
	}
	return d.queue.all(operationRead, d.direct, p, off)
}

func (d *file) writeSectors(p []byte, off int64) (int, error) {
	if d.queue == nil {
		return d.direct.WriteAt(p, off)
	}
	return d.queue.all(operationWrite, d.direct, p, off)
}
