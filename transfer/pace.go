package transfer

import (
	"math"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/manifest"
)

// pace decides how content travels: at which level it is compressed, and whether parts of blocks are asked for. It compares what was
// measured in this transfer: the line, the cores, and how the content shrinks. Its methods may be called by several goroutines.
//
//	content a second = min(cores × what one compresses at a level, line ÷ how far the content shrinks)
//
// and the level with the most wins. The cores are those that nothing else keeps busy: where hashing, TLS and the peer's end of a loopback device take
// all of them, compressing makes everything slower. What the line carries shows only while it is the bottleneck, for sockets, and what lies behind
// them, swallow megabytes at once. Until then a line counts as thin as long as that is cheap: it has to prove itself. A long one, by the round trip of
// its handshakes, is compressed for in earnest meanwhile: less than it swallows is all that many a run has to send. A short one is not.
type pace struct {
	compression Compression
	parts       Parts
	packers     float64
	long, short bool
	idleTime    func() (seconds float64, known bool) // idleCores

	mu      sync.Mutex
	levels  [levelCount]levelPace
	shrinks faded   // packed ÷ content, as if all were packed at fastest
	digests faded   // blocks that were compared by parts, bytes a second
	spared  float64 // share of those blocks that did not have to travel
	asked   int     // offers
	open    int     // offers with parts that are not answered
	lacked  int     // blocks that the sink lacks of those that are
	trials  int     // frames since the last trial
	upward  bool    // the last trial was of the higher of two levels

	// The last moments, fading: what was there to send, in bytes and the seconds that it took.
	content, blocks, time float64
	// The last moments since the level changed, fading: wire bytes, and seconds in writes, waiting for a packer, waiting for answers.
	wire, line, packing, idle float64
	current                   level
	compress                  float64 // seconds in which something was compressed, in the same moments

	idleBefore, sinceIdle float64 // what idleTime said last, and the seconds since
	free                  float64 // cores that were idle between the last two times; meaningless before sampled
	sampled               bool

	holds    float64 // share of the last frames before which the line held much
	carried  int64   // wire bytes in all
	capacity float64 // of the line in bytes a second, as believed; 0 is unknown
	measured bool    // the line was full once
}

// levelPace is what is known of a level.
type levelPace struct {
	rate faded
	// gain is the size of what this level makes of content, by the size that fastest makes of it.
	gain float64
}

const (
	// fadeTime is how long the last moments count, in seconds.
	fadeTime = 0.5
	// swallowed is how many bytes a line may take without carrying them yet.
	swallowed = 16 << 20
	// fewBytes is what a long line carries before the cores are spared at all: the content of small runs.
	fewBytes = 256 << 10
	// trialEvery is after how many frames another level is tried on the same content, while the line leaves the cores time.
	trialEvery = 64
	// coreRate and digestRate are bytes a second that are believed before they are measured.
	coreRate   = 300e6
	digestRate = 1e9
	// longLine is the round trip of a line that is no LAN, and not likely to be faster than the cores.
	longLine = 10 * time.Millisecond
	// shortLine is the round trip within a machine or a rack: the cores are slower than such a line, more often than not, and compressing
	// for it slows down the beginning, in which it looks thinner than it is from then on.
	shortLine = time.Millisecond
	// idleEvery is how often the processors' idle time is looked at, in seconds: the kernel counts it in hundredths.
	idleEvery = 0.2
	// lineHolds is how many bytes lie in the socket of a sender who waits for the line. When the peer's disk or cores are slower, its kernel takes all, and
	// the sender waits for the window.
	lineHolds = 64 << 10
	// sampleOffers: when hardly anything is spared by parts, one in so many offers still asks for them.
	sampleOffers = 64
	// unproven is how many blocks may be asked for in parts before the line has proved itself: what waits to be found is offered
	// long before anything is sent.
	unproven = 4096
)

// newPace makes the pace of a line of which the round trip is known (0: it is not), and the limit of what is sent, in bytes a second (0: there is none).
func newPace(t Tuning, packers int, rtt time.Duration, limit int64) *pace {
	k := &pace{
		compression: t.Compression, parts: t.Parts, packers: float64(packers), capacity: float64(limit),
		long: rtt >= longLine, short: rtt > 0 && rtt < shortLine,
		idleTime: idleCores, spared: 1, trials: trialEvery,
	}
	k.levels[fastest].gain, k.levels[standard].gain, k.levels[better].gain = 1, 0.97, 0.93
	return k
}

// wrote takes note of a DATA that was written, of what the socket held before (-1: nobody knows), and of how long its writer waited for answers,
// for the packer and for the line.
func (k *pace) wrote(wire, content, blocks int, queued int64, idle, packing, line time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	took := (idle + packing + line).Seconds()
	keep := math.Exp(-took / fadeTime)
	for _, v := range []struct {
		sum *float64
		add float64
	}{
		{&k.content, float64(content)}, {&k.blocks, float64(blocks)}, {&k.time, took}, {&k.wire, float64(wire)}, {&k.idle, idle.Seconds()}, {&k.packing, packing.Seconds()}, {&k.line, line.Seconds()},
		{&k.compress, 0},
	} {
		*v.sum = *v.sum*keep + v.add
	}
	k.carried += int64(wire)
	k.lookAtCores(took)
	holds := 0.0
	if queued < 0 || queued >= lineHolds {
		holds = 1
	}
	k.holds += (holds - k.holds) / 16
	total := k.total()
	waits := k.line > total/4 && k.line > k.idle
	switch {
	case waits && k.holds >= 0.75:
		// A writer that waits leaves the line no pause.
		if total > fadeTime/4 {
			k.capacity, k.measured = k.wire/total, true
		}
	case waits || k.packing > total/2 && k.line < total/10:
		// The line has room, since the peer or the packers are slower, and nobody knows how much: believe in more and more, quickly as long as it was
		// never full.
		if k.carried > swallowed {
			grows := 8 * took
			if k.measured {
				grows = took
			}
			k.capacity = max(k.capacity*(1+grows), k.wire/total)
		}
	}
}

// lookAtCores takes note of how many cores are idle. k.mu is held.
func (k *pace) lookAtCores(took float64) {
	if k.sinceIdle += took; k.sinceIdle < idleEvery && k.idleBefore != 0 {
		return
	}
	idle, known := k.idleTime()
	if !known {
		return
	}
	if k.idleBefore != 0 {
		k.free, k.sampled = max(0, idle-k.idleBefore)/k.sinceIdle, true
	}
	k.idleBefore, k.sinceIdle = idle, 0
}

// spare is how many cores may compress: those that are idle, and those that do so already. k.mu is held.
func (k *pace) spare() float64 {
	if !k.sampled {
		return k.packers
	}
	return min(k.packers, k.free+k.compress/k.total())
}

// total is the time of the last moments since the level changed, in seconds. k.mu is held.
func (k *pace) total() float64 { return max(k.line+k.packing+k.idle, 1e-9) }

// choose returns the level for one DATA with so many bytes of content, and a level to try beside it, or raw.
func (k *pace) choose(content int) (l, trial level) {
	if k.compression == CompressionOff {
		return raw, raw
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if l, _ = k.best(); l != k.current {
		k.current = l
		k.wire, k.line, k.packing, k.idle, k.compress = 0, 0, 0, 0, 0
	}
	switch {
	case l == raw:
		return raw, raw
	case k.capacity == 0 && l == standard && k.carried < fewBytes:
		if content < sampleFrom {
			return better, raw
		}
		return standard, fastest // which is shorter now and then
	case k.line < k.total()/2:
		return l, raw
	}
	if k.trials++; k.trials < trialEvery {
		return l, raw
	}
	k.trials, k.upward = 0, !k.upward
	others := [levelCount][2]level{fastest: {standard, better}, standard: {fastest, better}, better: {fastest, standard}}[l]
	if k.upward {
		return l, others[1]
	}
	return l, others[0]
}

// best returns the level that moves the most content, and how much in bytes a second. k.mu is held.
func (k *pace) best() (level, float64) {
	least := raw
	if k.compression == CompressionOn {
		least = fastest
	}
	if k.capacity == 0 {
		first := fastest
		if k.long {
			first = standard
		}
		// Compressing is cheap while it takes less than a quarter of a core.
		if demand := k.content / max(k.time, 1e-9); !k.short && (k.carried < swallowed || 4*demand < k.rate(first)) {
			return first, math.Inf(1)
		}
		return least, math.Inf(1)
	}
	most, best := k.reach(least), least
	for l := least + 1; l < levelCount; l++ {
		margin := 1.02
		if best == raw {
			margin = 1.25 // the cores have other work too
		}
		if r := k.reach(l); r > most*margin {
			most, best = r, l
		}
	}
	return best, most
}

// reach is how much content a level moves, in bytes a second. k.mu is held.
func (k *pace) reach(l level) float64 {
	if l == raw {
		return k.capacity
	}
	shrinks := 0.5
	if k.shrinks.known() {
		shrinks = k.shrinks.value()
	}
	return min(k.spare()*k.rate(l), k.capacity/(shrinks*k.levels[l].gain))
}

// rate is what one core compresses at a level, in bytes a second. k.mu is held.
func (k *pace) rate(l level) float64 {
	if k.levels[l].rate.known() {
		return k.levels[l].rate.value()
	}
	if l == fastest {
		return coreRate
	}
	return k.rate(l-1) / 2
}

// packed takes note of content that was packed.
func (k *pace) packed(l level, content, packed int, took time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.levels[l].rate.add(float64(content), took.Seconds())
	k.compress += took.Seconds()
	k.shrinks.add(float64(packed)/k.levels[l].gain, float64(content))
}

// tried takes note of content that was packed at two levels.
func (k *pace) tried(l, trial level, content, packed, other int, took time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.levels[trial].rate.add(float64(content), took.Seconds())
	changed, gain := trial, float64(other)/float64(packed)*k.levels[l].gain
	if trial == fastest {
		changed, gain = l, float64(packed)/float64(other)
	}
	k.levels[changed].gain += (gain - k.levels[changed].gain) / 2
}

// compared takes note of blocks that were compared by parts: their length, how much of it has to travel, and how long it took.
func (k *pace) compared(length, travels int, took time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.digests.add(float64(length), took.Seconds())
	k.spared += (1 - float64(travels)/float64(length) - k.spared) / 16
}

// answered takes note of blocks that the sink wants whole though parts were asked for.
func (k *pace) answered(whole int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.spared *= math.Pow(15.0/16, float64(whole))
}

// lacks takes note of the blocks that the sink lacks of an offer with parts.
func (k *pace) lacks(blocks int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open--
	k.lacked += blocks
}

// askParts decides for one OFFER. Parts cost the cores of both ends digests, and the receiver's disk two reads of each block; on a line
// that moves whole blocks a quarter as fast as digests are made, they do not pay.
func (k *pace) askParts() bool {
	switch k.parts {
	case PartsOn:
		return true
	case PartsOff:
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	ask := k.partsPay()
	if ask {
		k.open++
	}
	return ask
}

// partsPay is askParts by what was measured. k.mu is held.
func (k *pace) partsPay() bool {
	k.asked++
	if k.spared < 1.0/16 && k.asked%sampleOffers != 0 {
		return false
	}
	digests := float64(digestRate)
	if k.digests.known() {
		digests = k.digests.value()
	}
	if k.capacity == 0 {
		if k.carried < swallowed {
			return k.lacked+k.open*manifest.BlocksPerExtent < unproven
		}
		return 8*k.blocks/max(k.time, 1e-9) < digests
	}
	_, moves := k.best()
	return 4*moves < digests
}

// faded is a quotient whose older measurements count less.
type faded struct{ over, under float64 }

func (f *faded) add(over, under float64) {
	const keep = 0.9
	f.over = f.over*keep + over
	f.under = f.under*keep + under
}

func (f *faded) known() bool { return f.under > 0 }

func (f *faded) value() float64 { return f.over / f.under }
