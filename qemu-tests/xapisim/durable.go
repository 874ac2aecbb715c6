package xapisim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
)

// durablePath is where an attached disk's durable state is kept, if it has writes to lose.
func (p *Pool) durablePath(vdi *object) string { return p.volumePath(vdi) + ".durable" }

// secure makes what a disk holds now durable, if it could be lost: if an SR or a VDI lies by 'lost-writes'. The caller sees
// to it that nobody writes meanwhile. Pool.mu is released while the disk is copied.
func (c *call) secure(vdi *object) error {
	if c.lie("lost-writes", vdi, c.db.find("SR", vdi.text("SR"))) == nil {
		return nil
	}
	path, durable, size := c.volumePath(vdi), c.durablePath(vdi), vdi.integer("virtual_size")
	return c.unlocked(func() error {
		if err := remove(durable); err != nil {
			return err
		}
		if err := copyVolume(c.ctx, path, durable, size, nil); err != nil {
			return errors.Join(err, remove(durable))
		}
		return nil
	})
}

// Flushed makes what has been written to a disk so far durable, as a guest's flush does: 'lost-writes' no longer takes it.
func (p *Pool) Flushed(vdi string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	disk := p.vdi(vdi)
	if disk == nil {
		return fmt.Errorf("xapisim: there is no VDI %s", vdi)
	}
	c := &call{Pool: p, ctx: p.ctx, task: newRef()}
	release := c.holdWriters(disk)
	defer release()
	if err := c.secure(disk); err != nil {
		return fmt.Errorf("xapisim: VDI %s: %w", vdi, err)
	}
	return nil
}

// forgetDurable is for a disk that has been let go in order: nothing of it can be lost any more.
func (p *Pool) forgetDurable(vdi *object) {
	_ = os.Remove(p.durablePath(vdi)) // most have none
}

// loseWrites is what the end of a host's power does to the disks that a VM writes to: their logs of changed blocks are not
// closed, and what was not durable may be gone. The VM's guest has ended.
func (p *Pool) loseWrites(vm *object) {
	for _, vbd := range p.db.refs(vm, "VBDs", "VBD") {
		vdi := p.db.find("VDI", vbd.text("VDI"))
		if vdi == nil || vbd.text("mode") != "RW" || !vbd.boolean("currently_attached") {
			continue
		}
		if log := p.logs[vdi.uuid()]; log != nil {
			log.lost = true
		}
		if l := p.lie("lost-writes", vdi, p.db.find("SR", vdi.text("SR"))); l != nil {
			l.told++
			if err := rollBack(p.ctx, p.volumePath(vdi), p.durablePath(vdi), l.Keep, l.chance); err != nil && !os.IsNotExist(err) {
				p.db.set(vdi, "missing", true) // neither its old nor its new state: it is not to be used
			}
		}
	}
}

// rollBack gives the blocks that have changed since a volume was durable their old content, but for a share of them.
func rollBack(ctx context.Context, path, durable string, keep float64, chance *rand.Rand) (err error) {
	held, err := readContents(ctx, path)
	if err != nil {
		return err
	}
	since, err := readContents(ctx, durable)
	if err != nil {
		return err
	}
	old, err := os.Open(durable)
	if err != nil {
		return err
	}
	defer old.Close()
	volume, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, volume.Close()) }()
	blocks := held.changed(since)
	slices.Sort(blocks) // so that the same seed keeps the same blocks
	buffer := make([]byte, blockSize)
	for _, block := range blocks {
		if chance.Float64() < keep {
			continue
		}
		clear(buffer)
		if _, err := old.ReadAt(buffer, block*blockSize); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := volume.WriteAt(buffer, block*blockSize); err != nil {
			return err
		}
	}
	return nil
}
