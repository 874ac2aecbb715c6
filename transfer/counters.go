package transfer

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/manifest"
)

// Stage names a part of the pipeline whose busy time is counted.
type Stage string

// The stages of a transfer. Busy times of different stages overlap; those of
// one stage that runs on several goroutines add up.
const (
	StageRead     Stage = "read"     // waiting for the disk that is read
	StageHash     Stage = "hash"     // digests
	StageCompress Stage = "compress" // zstd, either way
	StageLine     Stage = "line"     // blocked in socket writes or on the peer's window
	StageWrite    Stage = "write"    // writing, zeroing and flushing the target
)

var stages = [...]Stage{StageRead, StageHash, StageCompress, StageLine, StageWrite}

// Counters tell what one end of one transfer did, in bytes unless said. Same,
// Zero, Copied and Sent are content by verdict and add up to the logical size
// when a transfer from the beginning is complete.
type Counters struct {
	Size      int64 `json:"size"`              // logical size
	Processed int64 `json:"processed"`         // settled so far, what lies below the start included
	Read      int64 `json:"read"`              // read from this end's disk, re-reads included
	Assumed   int64 `json:"assumed,omitempty"` // of this end's disk not read, for a hint
	Written   int64 `json:"written"`           // written to this end's disk, zeroes not included
	Same      int64 `json:"same"`
	Zero      int64 `json:"zero"`
	Copied    int64 `json:"copied"`
	Sent      int64 `json:"sent"`             // content that travelled, before compression
	Resent    int64 `json:"resent,omitempty"` // part of Sent: an attempt before had sent it too
	Wire      int64 `json:"wire"`             // bytes on the socket, both ways, TLS included
	// Busy is the time each stage was busy.
	Busy map[Stage]time.Duration `json:"busy,omitempty"`
}

// Progress is a live set of counters. All methods may be called from any
// goroutine. The zero value is ready.
type Progress struct {
	size, processed, read, written, assumed atomic.Int64
	same, zero, copied, sent, resent        atomic.Int64
	busy                                    [len(stages)]atomic.Int64

	mu   sync.Mutex
	wire []func() int64
}

// Snapshot reads the counters as they are now.
func (p *Progress) Snapshot() Counters {
	c := Counters{
		Size: p.size.Load(), Processed: p.processed.Load(), Read: p.read.Load(), Written: p.written.Load(), Assumed: p.assumed.Load(),
		Same: p.same.Load(), Zero: p.zero.Load(), Copied: p.copied.Load(), Sent: p.sent.Load(), Resent: p.resent.Load(),
		Busy: make(map[Stage]time.Duration, len(stages)),
	}
	for i, s := range stages {
		c.Busy[s] = time.Duration(p.busy[i].Load())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.wire {
		c.Wire += f()
	}
	return c
}

// Add returns the sum of two sets of counters, as for the disks of one VM.
func (c Counters) Add(o Counters) Counters {
	c.Size += o.Size
	c.Processed += o.Processed
	c.Read += o.Read
	c.Assumed += o.Assumed
	c.Written += o.Written
	c.Same += o.Same
	c.Zero += o.Zero
	c.Copied += o.Copied
	c.Sent += o.Sent
	c.Resent += o.Resent
	c.Wire += o.Wire
	busy := maps.Clone(c.Busy)
	if busy == nil {
		busy = make(map[Stage]time.Duration, len(o.Busy))
	}
	for s, d := range o.Busy {
		busy[s] += d
	}
	c.Busy = busy
	return c
}

// begin sets the size of a transfer that starts at an extent.
func (p *Progress) begin(g manifest.Geometry, start uint32) {
	p.size.Store(g.Size)
	p.processed.Store(bytesBelow(g, start))
}

// watchWire makes f's value part of Wire.
func (p *Progress) watchWire(f func() int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wire = append(p.wire, f)
}

// spend adds the time since start to a stage.
func (p *Progress) spend(s Stage, start time.Time) {
	p.spent(s, time.Since(start))
}

func (p *Progress) spent(s Stage, d time.Duration) {
	for i, name := range stages {
		if name == s {
			p.busy[i].Add(int64(d))
			return
		}
	}
}
