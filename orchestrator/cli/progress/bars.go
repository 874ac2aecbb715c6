package progress

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/understudy-dr/understudy/orchestrator/report"
)

// barWidth is the width of a bar in columns, without the texts around it.
const barWidth = 16

// bars draws one bar a disk or upload, for one run at a time. Show and finish are called by one goroutine at a time, Write by any.
type bars struct {
	out io.Writer

	mu   sync.Mutex // of all; the goroutine that draws takes it never
	pool *mpb.Progress
	all  map[string]*bar // by name
}

type bar struct {
	*mpb.Bar
	text  atomic.Pointer[string] // read by the goroutine that draws
	whole bool
}

func newBars(out io.Writer) *bars { return &bars{out: out} }

// Write puts whole lines above the bars.
func (b *bars) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pool == nil {
		return b.out.Write(p)
	}
	return b.pool.Write(p)
}

// show draws a disk; rate is in bytes a second.
func (b *bars) show(d report.Disk, rate float64) {
	text := fmt.Sprintf(" %3d %% of %s  read %s  sent %s  ", percent(settled(d), d.LogicalSize), size(d.LogicalSize), size(d.Read), size(d.Sent))
	if d.State == report.DiskMoving {
		text += size(int64(rate)) + "/s"
	} else {
		text += string(d.State)
	}
	b.draw("disk "+d.Disk, settled(d), d.LogicalSize, text)
}

// draw draws the bar of a name, with a text behind it.
func (b *bars) draw(name string, done, total int64, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pool == nil {
		b.pool, b.all = mpb.New(mpb.WithOutput(b.out), mpb.WithAutoRefresh()), map[string]*bar{}
	}
	known := b.all[name]
	if known == nil {
		known = b.add(name, total)
		b.all[name] = known
	}
	known.text.Store(&text)
	known.whole = done >= total
	known.SetCurrent(done)
}

// add makes a bar without a total, which would end it too early: a disk is flushed and committed afterwards.
func (b *bars) add(name string, total int64) *bar {
	known := &bar{}
	known.text.Store(new(string))
	known.Bar = b.pool.New(0, mpb.BarStyle(), mpb.BarWidth(barWidth),
		mpb.PrependDecorators(decor.Name(name+" ")),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return *known.text.Load() })))
	known.SetTotal(total, false)
	return known
}

// finish draws the bars for the last time and leaves them where they are.
func (b *bars) finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pool == nil {
		return
	}
	for _, known := range b.all {
		if known.whole {
			known.SetTotal(-1, true)
		} else {
			known.Abort(false)
		}
	}
	b.pool.Wait()
	b.pool, b.all = nil, nil
}
