package transfer

import "github.com/understudy-dr/understudy/manifest"

// Index is an index for the tests of its bounds.
type Index struct{ x *index }

// NewIndex makes one.
func NewIndex(memory, blocks int64) Index { return Index{newIndex(memory, blocks)} }

// Put puts a block.
func (i Index) Put(d manifest.Digest, block uint32) { i.x.put(d.Short(), blockPosition(block), 0) }

// Find finds a block.
func (i Index) Find(d manifest.Digest) (uint32, bool) {
	at, ok := i.x.find(d.Short())
	return at.block(), ok
}

// Remove removes a block.
func (i Index) Remove(d manifest.Digest, block uint32) { i.x.remove(d.Short(), blockPosition(block)) }

// Bytes is its memory.
func (i Index) Bytes() int { return len(i.x.digests)*8 + len(i.x.blocks)*4 }

// Follow looks for the blocks of consecutive extents as a transfer does, and
// counts those whose place it tells, rightly when each lies shift blocks further on.
func (i Index) Follow(digests []manifest.Digest, first uint32, shift int64) (right int) {
	var c chain
	for at := 0; at < len(digests); at += manifest.BlocksPerExtent {
		var f found
		for b := range manifest.BlocksPerExtent {
			if from, ok, gap := i.x.lookUp(digests[at+b].Short()); ok {
				f.set(b, from)
			} else if gap {
				f.gaps |= 1 << b
			}
		}
		c.extend(&f, blockPosition(first+uint32(at)), ^uint64(0), 1<<36, true)
		for b := range ones(f.known | f.guess) {
			if int64(f.from[b].block())+shift == int64(first)+int64(at+b) {
				right++
			}
		}
	}
	return right
}

// Allowance is an allowance for the test of how it adapts.
type Allowance struct{ a *allowance }

// NewAllowance makes one for a disk of so many bytes.
func NewAllowance(t Tuning, size int64) Allowance {
	a := newAllowance(t, manifest.Geometry{Size: size})
	return Allowance{&a}
}

// Fill has as many blocks wait as may, and returns how many do.
func (a Allowance) Fill() int {
	for a.a.admit() {
		if a.a.exceeded() {
			a.a.asked()
		}
	}
	return a.a.waiting
}

// Holds, Alike, Found and Asked tell it what happened, to so many blocks.
func (a Allowance) Holds(n int) { a.a.content += n }
func (a Allowance) Alike(n int) { a.a.alike += n }
func (a Allowance) Found(n int) {
	for range n {
		a.a.found()
	}
}
func (a Allowance) Asked(n int) {
	for range n {
		a.a.asked()
	}
}
