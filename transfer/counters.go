package transfer

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/manifest"
)

// Stage names a part of the pipeline whose busy time is counted.
type Stage string

// The stages of a transfer. Busy times of different stages overlap. A stage that
// runs on several goroutines is busy as they are in the mean, so that none is
// busier than the transfer takes.
const (
	StageRead     Stage = "read"     // waiting for this end's disk to be read
	StageHash     Stage = "hash"     // digests
	StageCompress Stage = "compress" // zstd, either way
	StageLine     Stage = "line"     // blocked in socket writes or on the peer's window
	StageWrite    Stage = "write"    // patching, writing, zeroing and flushing the target
)

var stages = [...]Stage{StageRead, StageHash, StageCompress, StageLine, StageWrite}

// Counters tell what one end of one transfer did, in bytes unless said. Same,
// Zero, Copied, Sent and Spared are content by verdict and add up to the logical
// size when a transfer from the beginning is complete.
type Counters struct {
	Size      int64 `json:"size"`              // logical size
	Processed int64 `json:"processed"`         // settled so far, what lies below the start included
	Read      int64 `json:"read"`              // read from this end's disk, re-reads included
	Assumed   int64 `json:"assumed,omitempty"` // of this end's disk not read, for a hint
	Written   int64 `json:"written"`           // written to this end's disk, zeroes not included
	Same      int64 `json:"same"`
	Zero      int64 `json:"zero"`
	Copied    int64 `json:"copied"`
	Sent      int64 `json:"sent"`             // content that travelled and was taken, before compression
	Resent    int64 `json:"resent,omitempty"` // part of Sent: an attempt before had sent it too
	Spared    int64 `json:"spared"`           // the rest of the blocks that travelled in parts: the receiver had it
	Wire      int64 `json:"wire"`             // bytes on the socket, both ways, TLS included
	// Levels is the content that a sender put on the line, by how it was compressed.
	Levels map[Level]int64 `json:"levels,omitempty"`
	// Elapsed is the wall time of the transfer, Busy the time that each stage was busy.
	Elapsed time.Duration           `json:"elapsed,omitempty"`
	Busy    map[Stage]time.Duration `json:"busy,omitempty"`
}

// Progress is a live set of counters. All methods may be called from any
// goroutine. The zero value is ready.
type Progress struct {
	size, processed, read, written, assumed atomic.Int64
	same, zero, copied, sent, resent        atomic.Int64
	spared                                  atomic.Int64
	levels                                  [levelCount]atomic.Int64
	busy                                    [len(stages)]atomic.Int64 // of all goroutines
	goroutines                              [len(stages)]atomic.Int64 // 0 is one

	mu      sync.Mutex
	began   time.Time
	elapsed time.Duration // once the transfer has ended
	wire    []func() int64
}

// Snapshot reads the counters as they are now.
func (p *Progress) Snapshot() Counters {
	c := Counters{
		Size: p.size.Load(), Processed: p.processed.Load(), Read: p.read.Load(), Written: p.written.Load(), Assumed: p.assumed.Load(),
		Same: p.same.Load(), Zero: p.zero.Load(), Copied: p.copied.Load(), Sent: p.sent.Load(), Resent: p.resent.Load(), Spared: p.spared.Load(),
		Busy: make(map[Stage]time.Duration, len(stages)),
	}
	for i, s := range stages {
		c.Busy[s] = time.Duration(p.busy[i].Load() / max(1, p.goroutines[i].Load()))
	}
	for i := range p.levels {
		if n := p.levels[i].Load(); n > 0 {
			if c.Levels == nil {
				c.Levels = make(map[Level]int64)
			}
			c.Levels[levels[i].name] = n
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.Elapsed = p.elapsed; c.Elapsed == 0 && !p.began.IsZero() {
		c.Elapsed = time.Since(p.began)
	}
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
	c.Spared += o.Spared
	c.Wire += o.Wire
	c.Elapsed += o.Elapsed
	c.Levels, c.Busy = sum(c.Levels, o.Levels), sum(c.Busy, o.Busy)
	return c
}

// sum adds two maps.
func sum[K comparable, V int64 | time.Duration](a, b map[K]V) map[K]V {
	if len(b) == 0 {
		return a
	}
	total := make(map[K]V, len(b))
	maps.Copy(total, a)
	for k, v := range b {
		total[k] += v
	}
	return total
}

// Bottleneck says how busy the stages of a transfer were, from this end, which sends, to the other, which counted receiver:
//
//	source 12 % · hash 80 % · compress 3 % · line 9 % · target 3 %
//
// Stages that both ends have count as the busier of the two. It is empty when nothing was timed.
func (c Counters) Bottleneck(receiver Counters) string {
	if c.Elapsed <= 0 {
		return ""
	}
	share := func(c Counters, s Stage) float64 { return float64(c.Busy[s]) / float64(max(c.Elapsed, 1)) }
	text := make([]string, 0, len(stages))
	for _, s := range []struct {
		name  string
		share float64
	}{
		{"source", share(c, StageRead)},
		{"hash", max(share(c, StageHash), share(receiver, StageHash))},
		{"compress", max(share(c, StageCompress), share(receiver, StageCompress))},
		{"line", share(c, StageLine)},
		{"target", max(share(c, StageWrite), share(receiver, StageRead), share(receiver, StageWrite))},
	} {
		text = append(text, fmt.Sprintf("%s %.0f %%", s.name, 100*min(s.share, 1)))
	}
	return strings.Join(text, " · ")
}

// begin sets the size of a transfer that starts at an extent, and starts the
// clock, unless it runs.
func (p *Progress) begin(g manifest.Geometry, start uint32) {
	p.size.Store(g.Size)
	p.processed.Store(bytesBelow(g, start))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.began.IsZero() {
		p.began = time.Now()
	}
}

// end stops the clock.
func (p *Progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.elapsed = time.Since(p.began)
}

// workers says on how many goroutines a stage runs.
func (p *Progress) workers(s Stage, n int) {
	for i, name := range stages {
		if name == s {
			p.goroutines[i].Store(int64(n))
		}
	}
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
