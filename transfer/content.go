package transfer

import "github.com/understudy-dr/understudy/blockio"

// content is what one DATA holds, in pieces that lie where they were read, so that what travels raw is not copied first. Its buffer is
// made when it is needed: for what is read again, for blocks of which only parts travel, and for what is to be compressed.
type content struct {
	pieces [][]byte // in order; those in buffer are where they belong
	length int
	most   int // bytes that it may hold
	buffer []byte
}

func (c *content) clear() { c.pieces, c.length = c.pieces[:0], 0 }

// room returns room for the next n bytes, which may be shortened before they are lent.
func (c *content) room(n int) []byte { return c.own(c.length, n) }

func (c *content) own(off, n int) []byte {
	if c.buffer == nil {
		c.buffer = blockio.AlignedBuffer(c.most)
	}
	return c.buffer[off : off+n]
}

// lend appends a piece, which stays as it is until the content is on the line.
func (c *content) lend(piece []byte) {
	c.pieces = append(c.pieces, piece)
	c.length += len(piece)
}

// joined returns all of it in one piece.
func (c *content) joined() []byte {
	if len(c.pieces) == 1 {
		return c.pieces[0]
	}
	at := 0
	for _, piece := range c.pieces {
		if to := c.own(at, len(piece)); &to[0] != &piece[0] {
			copy(to, piece)
		}
		at += len(piece)
	}
	c.pieces = append(c.pieces[:0], c.buffer[:c.length])
	return c.pieces[0]
}

// copyAt copies from an offset on.
func (c *content) copyAt(p []byte, off int) {
	for _, piece := range c.pieces {
		if off >= len(piece) {
			off -= len(piece)
			continue
		}
		n := copy(p, piece[off:])
		if p, off = p[n:], 0; len(p) == 0 {
			return
		}
	}
}
