package blockio

import (
	"bytes"
	"sync"
)

// Memory is a Device in memory, for tests. Its sector is 512 bytes. Memory of the machine is taken as bytes are first written.
type Memory struct {
	mu       sync.RWMutex
	data     []byte
	closed   bool
	readOnly bool
}

var _ Device = (*Memory)(nil)

// NewMemory makes a device of size zero bytes.
func NewMemory(size int64) *Memory { return &Memory{data: make([]byte, size)} }

// Bytes is the device's content itself: to be changed or looked at only while nobody uses the device.
func (m *Memory) Bytes() []byte { return m.data }

// Snapshot is a copy of the content at one moment between two writes. It may be taken after Close.
func (m *Memory) Snapshot() []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return bytes.Clone(m.data)
}

func (m *Memory) Size() int64     { return int64(len(m.data)) }
func (m *Memory) SectorSize() int { return 512 }

func (m *Memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return 0, ErrClosed
	}
	n, atEnd := checkRead(off, len(p), m.Size())
	if n > 0 {
		copy(p, m.data[off:off+int64(n)])
	}
	return n, atEnd
}

func (m *Memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := checkWrite(off, int64(len(p)), m.Size(), m.closed, m.readOnly); err != nil {
		return 0, err
	}
	return copy(m.data[off:], p), nil
}

func (m *Memory) WriteZeroes(off, length int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := checkWrite(off, length, m.Size(), m.closed, m.readOnly); err != nil {
		return err
	}
	clear(m.data[off : off+length])
	return nil
}

func (m *Memory) Flush() error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return ErrClosed
	}
	return nil
}

func (m *Memory) SetReadOnly() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	m.readOnly = true
	return nil
}

func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}
