package blockio

import (
	"sync"
	"sync/atomic"
	"time"
)

// Counters is what a Meter has counted. Bytes are those really read or written, operations include those that failed.
type Counters struct {
	ReadOperations, ReadBytes   int64
	WriteOperations, WriteBytes int64
	ZeroOperations, ZeroBytes   int64
	Flushes                     int64

	// ReadBusy is the time during which at least one read was under way, however many there were; WriteBusy is the same for writes,
	// zeroing and flushes together.
	ReadBusy, WriteBusy time.Duration
}

// Meter is a Device that counts what passes through it to another. Safe for concurrent use.
type Meter struct {
	dev Device

	readOperations, readBytes   atomic.Int64
	writeOperations, writeBytes atomic.Int64
	zeroOperations, zeroBytes   atomic.Int64
	flushes                     atomic.Int64
	reading, writing            stopwatch
}

var _ Device = (*Meter)(nil)

// NewMeter returns a Meter in front of dev. Closing it closes dev.
func NewMeter(dev Device) *Meter { return &Meter{dev: dev} }

// Counters returns the counts so far. Each is exact; taken while operations end they may be of slightly different moments.
func (m *Meter) Counters() Counters {
	return Counters{
		ReadOperations: m.readOperations.Load(), ReadBytes: m.readBytes.Load(),
		WriteOperations: m.writeOperations.Load(), WriteBytes: m.writeBytes.Load(),
		ZeroOperations: m.zeroOperations.Load(), ZeroBytes: m.zeroBytes.Load(),
		Flushes:  m.flushes.Load(),
		ReadBusy: m.reading.elapsed(), WriteBusy: m.writing.elapsed(),
	}
}

func (m *Meter) Size() int64        { return m.dev.Size() }
func (m *Meter) SectorSize() int    { return m.dev.SectorSize() }
func (m *Meter) SetReadOnly() error { return m.dev.SetReadOnly() }
func (m *Meter) Close() error       { return m.dev.Close() }

func (m *Meter) ReadAt(p []byte, off int64) (int, error) {
	m.reading.start()
	defer m.reading.stop()
	n, err := m.dev.ReadAt(p, off)
	m.readOperations.Add(1)
	m.readBytes.Add(int64(n))
	return n, err
}

func (m *Meter) WriteAt(p []byte, off int64) (int, error) {
	m.writing.start()
	defer m.writing.stop()
	n, err := m.dev.WriteAt(p, off)
	m.writeOperations.Add(1)
	m.writeBytes.Add(int64(n))
	return n, err
}

func (m *Meter) WriteZeroes(off, length int64) error {
	m.writing.start()
	defer m.writing.stop()
	err := m.dev.WriteZeroes(off, length)
	m.zeroOperations.Add(1)
	if err == nil {
		m.zeroBytes.Add(length)
	}
	return err
}

func (m *Meter) Flush() error {
	m.writing.start()
	defer m.writing.stop()
	m.flushes.Add(1)
	return m.dev.Flush()
}

// stopwatch measures the time during which at least one operation runs.
type stopwatch struct {
	mu      sync.Mutex
	running int
	since   time.Time
	total   time.Duration
}

func (s *stopwatch) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == 0 {
		s.since = time.Now()
	}
	s.running++
}

func (s *stopwatch) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	if s.running == 0 {
		s.total += time.Since(s.since)
	}
}

func (s *stopwatch) elapsed() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running > 0 {
		return s.total + time.Since(s.since)
	}
	return s.total
}
