package transfer

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/manifest"
)

// simulated is a transfer as a pace sees it: frames of content, cores and a line with rates. It returns the level that the last
// frames had, and whether most of the last offers asked for parts.
type simulated struct {
	line     float64             // wire bytes a second
	demand   float64             // content bytes a second that want to travel
	compress [levelCount]float64 // content bytes a second of one core
	shrinks  [levelCount]float64 // packed ÷ content
	digests  float64
	spared   float64 // share of a block that its parts need not travel
	fresh    bool    // the sink holds only zeroes
	packers  int
	rtt      time.Duration
	limit    int64 // bytes a second; 0: none
	content  int64 // bytes to move
	cores    float64
	moving   float64 // wire bytes a second that one core moves, with all that belongs to it; 0: no work
}

func (s simulated) run(k *pace) (last level, parts bool) {
	const frame = 1 << 20
	seconds := func(f float64) time.Duration { return time.Duration(f * float64(time.Second)) }
	swallow := float64(8 << 20) // what sockets take at once
	asked := 0
	var queued float64      // bytes in sockets
	clock, worked := 1., 0. // seconds, and seconds of cores
	k.idleTime = func() (float64, bool) { return clock*s.cores - worked, true }
	for moved := int64(0); moved < s.content; moved += frame {
		ask := k.askParts()
		if moved >= s.content-64*frame && ask {
			asked++
		}
		switch {
		case ask && s.fresh:
			k.answered(frame / manifest.BlockSize)
		case ask:
			k.compared(frame, int(frame*(1-s.spared)), seconds(frame/s.digests))
		}
		l, trial := k.choose(frame)
		wire, pack := float64(frame), 0.0
		if l != raw {
			wire = frame * s.shrinks[l]
			pack = frame / s.compress[l]
			k.packed(l, frame, int(wire), seconds(pack))
			if trial != raw {
				k.tried(l, trial, frame, int(wire), int(frame*s.shrinks[trial]), seconds(frame/s.compress[trial]))
			}
		}
		idle := frame / s.demand
		before := int64(queued)
		packing := max(0, pack/float64(s.packers)-idle)
		took := idle + packing
		queued = max(0, queued-took*s.line)
		line := max(0, (queued+wire-swallow)/s.line)
		queued = max(0, queued+wire-line*s.line)
		works := pack
		if s.moving > 0 {
			works += wire / s.moving
		}
		line = max(line, works/s.cores-took) // they all wait for the cores
		clock += took + line
		worked += works
		k.wrote(int(wire), frame, frame, before, seconds(idle), seconds(packing), seconds(line))
		last = l
	}
	return last, asked > int(min(64, s.content/frame)/2)
}

func TestPace(t *testing.T) {
	text := simulated{
		demand: 4e9, compress: [levelCount]float64{0, 400e6, 200e6, 80e6}, shrinks: [levelCount]float64{1, 0.40, 0.37, 0.33},
		digests: 1.5e9, spared: 0.9, packers: 2, content: 4 << 30, cores: 2,
	}
	for name, c := range map[string]struct {
		change func(*simulated)
		tuning Tuning
		want   level
		parts  bool
	}{
		"loopback":                     {func(s *simulated) { s.line = 2e9 }, Tuning{}, raw, false},
		"loopback, busy cores":         {func(s *simulated) { s.line, s.moving = 2e9, 200e6 }, Tuning{}, raw, false},
		"1 Gbit, busy cores":           {func(s *simulated) { s.line, s.moving = 118e6, 200e6 }, Tuning{}, standard, true},
		"100 Mbit, busy cores":         {func(s *simulated) { s.line, s.moving = 12e6, 200e6 }, Tuning{}, better, true},
		"10 Gbit":                      {func(s *simulated) { s.line = 1.1e9 }, Tuning{}, raw, false},
		"1 Gbit":                       {func(s *simulated) { s.line = 118e6 }, Tuning{}, standard, true},
		"100 Mbit":                     {func(s *simulated) { s.line = 12e6 }, Tuning{}, better, true},
		"10 Mbit":                      {func(s *simulated) { s.line, s.content = 1.2e6, 256<<20 }, Tuning{}, better, true},
		"one core, 1 Gbit":             {func(s *simulated) { s.line, s.packers = 118e6, 1 }, Tuning{}, fastest, true},
		"loopback, on":                 {func(s *simulated) { s.line = 2e9 }, Tuning{Compression: CompressionOn, Parts: PartsOn}, fastest, true},
		"100 Mbit, off":                {func(s *simulated) { s.line = 12e6 }, Tuning{Compression: CompressionOff, Parts: PartsOff}, raw, false},
		"few changes":                  {func(s *simulated) { s.line, s.demand = 2e9, 10e6 }, Tuning{}, fastest, true},
		"few changes, 100 Mbit":        {func(s *simulated) { s.line, s.demand = 12e6, 10e6 }, Tuning{}, fastest, true},
		"a slow source":                {func(s *simulated) { s.line, s.demand = 2e9, 500e6 }, Tuning{}, raw, false},
		"a better level that is none":  {func(s *simulated) { s.line, s.shrinks = 12e6, [levelCount]float64{1, 0.40, 0.41, 0.42} }, Tuning{}, fastest, true},
		"a sink of zeroes":             {func(s *simulated) { s.line, s.fresh = 12e6, true }, Tuning{}, better, false},
		"a long line's first bytes":    {func(s *simulated) { s.line, s.rtt, s.content = 12e6, 100*time.Millisecond, 8<<20 }, Tuning{}, standard, true},
		"a LAN's first bytes":          {func(s *simulated) { s.line, s.rtt, s.content = 12e6, time.Millisecond, 8<<20 }, Tuning{}, fastest, true},
		"a short line's first bytes":   {func(s *simulated) { s.line, s.rtt, s.content = 12e6, time.Millisecond/10, 8<<20 }, Tuning{}, raw, true},
		"a short line that is thin":    {func(s *simulated) { s.line, s.rtt = 12e6, time.Millisecond/10 }, Tuning{}, better, true},
		"a limit's first bytes":        {func(s *simulated) { s.line, s.limit, s.content = 12e6, 12e6, 8<<20 }, Tuning{}, better, true},
		"a long line that is fast":     {func(s *simulated) { s.line, s.rtt = 2e9, 100*time.Millisecond }, Tuning{}, raw, false},
		"a limit beyond the line":      {func(s *simulated) { s.line, s.limit = 12e6, 2e9 }, Tuning{}, better, true},
		"blocks that change as wholes": {func(s *simulated) { s.line, s.spared = 12e6, 0 }, Tuning{}, better, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := text
			c.change(&s)
			k := newPace(c.tuning, s.packers, s.rtt, s.limit)
			if got, parts := s.run(k); got != c.want || parts != c.parts {
				t.Errorf("level %s, parts %v; want %s, %v; the line was taken for one of %.3g B/s", levels[got].name, parts, levels[c.want].name, c.parts, k.capacity)
			}
		})
	}
}

// TestPaceFollowsTheLine: a line that becomes fast, or slow, is noticed.
func TestPaceFollowsTheLine(t *testing.T) {
	s := simulated{
		demand: 4e9, compress: [levelCount]float64{0, 400e6, 200e6, 80e6}, shrinks: [levelCount]float64{1, 0.40, 0.37, 0.33},
		digests: 1.5e9, spared: 0.9, packers: 2, content: 2 << 30, line: 12e6, cores: 2,
	}
	k := newPace(Tuning{}, s.packers, 0, 0)
	s.run(k)
	for _, c := range []struct {
		line  float64
		want  level
		parts bool
	}{{2e9, raw, false}, {12e6, better, true}} {
		s.line, s.content = c.line, 8<<30
		if got, parts := s.run(k); got != c.want || parts != c.parts {
			t.Errorf("at %.3g B/s: level %s, parts %v; want %s, %v", c.line, levels[got].name, parts, levels[c.want].name, c.parts)
		}
	}
}

// TestFewBytes: of little content on a long line, every byte counts.
func TestFewBytes(t *testing.T) {
	long, short := newPace(Tuning{}, 1, 100*time.Millisecond, 0), newPace(Tuning{}, 1, time.Millisecond, 0)
	for _, c := range []struct {
		pace     *pace
		content  int
		l, trial level
	}{{long, partSize, better, raw}, {long, maxContent, standard, fastest}, {short, partSize, fastest, raw}, {short, maxContent, fastest, raw}} {
		if l, trial := c.pace.choose(c.content); l != c.l || trial != c.trial {
			t.Errorf("%d bytes, long %v: %s and %s", c.content, c.pace.long, levels[l].name, levels[trial].name)
		}
	}
	long.carried = fewBytes
	if l, trial := long.choose(partSize); l != standard || trial != raw {
		t.Errorf("later %s and %s", levels[l].name, levels[trial].name)
	}
}

// TestMixedContent: on a line that is slower than the cores, content travels packed when only some of it shrinks, and what does not shrink tells nothing of
// what comes next.
func TestMixedContent(t *testing.T) {
	noise := make([]byte, maxContent)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise) // never fails
	mixed := append(bytes.Clone(noise[:maxContent*31/32]), make([]byte, maxContent/32)...)
	k := newPace(Tuning{}, 1, time.Second, 0)
	p := packer{pace: k, progress: new(Progress)}
	for _, c := range []struct {
		name    string
		content []byte
		want    level
	}{{"noise", noise, raw}, {"noise and zeroes", mixed, standard}} {
		k.carried = fewBytes
		l, packed, err := p.pack(t.Context(), &content{pieces: [][]byte{c.content}, length: len(c.content), most: len(c.content)})
		if err != nil || l != c.want {
			t.Fatalf("%s: level %s, error %v; want %s", c.name, levels[l].name, err, levels[c.want].name)
		}
		if l != raw && len(packed[0]) > len(noise)*63/64 {
			t.Errorf("%s: packed to %d bytes", c.name, len(packed[0]))
		}
		if (l == raw) == k.shrinks.known() {
			t.Errorf("%s: the pace learns how far content shrinks: %v", c.name, k.shrinks.known())
		}
	}
}
