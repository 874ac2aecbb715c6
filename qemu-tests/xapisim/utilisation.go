package xapisim

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// measure is how much a volume on a base copy was found to take, and by what its file can be recognised as unchanged.
type measure struct {
	taken     int64
	allocated int64
	modified  time.Time
	known     bool
}

const (
	vhdBlock    = 2 << 20  // the unit in which a volume on a base copy takes space
	vhdOverhead = 24 << 10 // what such a volume takes when nothing is written to it
)

// difference is the space that a volume takes on a base copy.
func difference(held, since contents) int64 {
	blocks := map[int64]bool{}
	for _, block := range held.changed(since) {
		blocks[block*blockSize/vhdBlock] = true
	}
	return int64(len(blocks))*vhdBlock + vhdOverhead
}

// status gives the space that a file takes on its file system and when it was last written.
func status(path string) (allocated int64, modified time.Time, err error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, time.Time{}, fmt.Errorf("stat %s: %w", path, err)
	}
	return stat.Blocks * 512, time.Unix(stat.Mtim.Unix()), nil
}

// tick is longer than two writes can lie apart without a file's times telling them apart.
const tick = 20 * time.Millisecond

// taken is the space that a VDI takes. On a thick SR a disk takes its whole size at once, whatever of it is written, and
// so does every snapshot and clone; a base copy only what it holds. On a thin SR a volume takes what differs from the one
// below. That is found by reading, and so only for a disk that nobody writes to now; of an attached one only the growth of
// its file is known, as a driver too knows more only after the disk is detached. Pool.mu is released while a disk is read.
func (p *Pool) taken(vdi, sr *object) (int64, error) {
	l := p.chain[vdi.uuid()]
	switch {
	case l != nil && l.own != nil:
		if !l.size.known {
			l.size = measure{taken: difference(l.own, l.since), known: true}
		}
		return l.size.taken, nil
	case vdi.text("type") == "cbt_metadata":
		return 0, nil
	case thick(sr):
		return vdi.integer("virtual_size"), nil
	}
	path := p.volumePath(vdi)
	now, modified, err := status(path)
	if err != nil || l == nil || l.parent == "" {
		return now, err
	}
	if l.size.known && (p.written(vdi) || modified.Equal(l.size.modified)) {
		return l.size.taken + max(0, now-l.size.allocated), nil
	}
	var held contents
	p.mu.Unlock()
	held, err = readContents(p.ctx, path)
	p.mu.Lock()
	if err != nil {
		return now, err
	}
	size := measure{taken: difference(held, l.since), allocated: now, modified: modified, known: true}
	if time.Since(modified) < tick {
		size.modified = time.Time{} // a write of now might go unseen
	}
	l.size = size
	return size.taken, nil
}
