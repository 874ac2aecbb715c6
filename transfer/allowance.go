package transfer

import "github.com/understudy-dr/understudy/manifest"

// allowance decides how much content may wait to be found at the sink before it is
// asked for. A block that is found while it waits costs nothing, one that waits in
// vain costs the sender a second read of it. So it is these second reads that are
// budgeted, not a rate: at first an eighth of the disk, then as much as was seen to be
// alike at both ends, up to most, with an eighth of what is alike beyond that and one
// for each block that was found. A disk of other content is hardly read twice,
// whatever its size; a file that lies behind content that is alike waits as a whole,
// however many of its blocks wait before the first is found, which a rate of hits
// would not let them.
//
// It counts blocks, and is guarded by its owner's mutex.
type allowance struct {
	most    int // that wait at a time
	unalike int // may wait in vain though nothing is alike
	content int // that the sink was seen to hold: at an empty one nothing can be found
	alike   int // that are the same at both ends and not zero
	hits    int // that waited, and were found
	misses  int // that waited in vain
	waiting int
}

const (
	// DefaultDefer is how much content may wait to be found.
	DefaultDefer = 1 << 30
	// leastDefer is how much may wait in vain on a small disk, and deferShare the
	// part of a large one that may.
	leastDefer = 64 << 20
	deferShare = 8
	// deferExtents is how far the comparison goes on beyond an extent with blocks
	// that wait. With ackExtents it lies below runAhead, so that waiting does not
	// hold up the sender.
	deferExtents = 896
)

// newAllowance is sized by Tuning.Defer and the disk. Nothing may wait before the
// sink was seen to hold something.
func newAllowance(t Tuning, g manifest.Geometry) allowance {
	most := t.Defer
	if most == 0 {
		most = DefaultDefer
	}
	most = max(most, 0)
	unalike := min(max(g.Size/deferShare, leastDefer), most)
	return allowance{most: int(most / manifest.BlockSize), unalike: int(unalike / manifest.BlockSize)}
}

// admit tells whether one more block may wait, and counts it if so.
func (a *allowance) admit() bool {
	budget := min(a.unalike, 8*a.content) + min(a.alike, a.most) + a.alike/8 + a.hits
	if a.most == 0 || a.misses+a.waiting >= budget {
		return false
	}
	a.waiting++
	return true
}

// exceeded tells whether the oldest block has to make room.
func (a *allowance) exceeded() bool { return a.waiting > a.most }

// found says that a waiting block was found.
func (a *allowance) found() {
	a.waiting--
	a.hits++
}

// asked says that a waiting block is asked for.
func (a *allowance) asked() {
	a.waiting--
	a.misses++
}

// spared says that one need not be asked for after all.
func (a *allowance) spared() {
	a.misses--
	a.hits++
}
