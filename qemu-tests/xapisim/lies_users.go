package xapisim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
)

// do carries a call out as an administrator of the pool would. The caller holds Pool.mu. Arguments are typed as the
// message's parameters; those left out are zero.
func (p *Pool) do(class, message string, args ...any) (any, error) {
	c := &call{Pool: p, ctx: p.ctx, client: p.ctx, task: newRef(), message: p.db.model.Classes[class].Messages[message], args: args}
	for _, param := range c.message.Params[len(args):] {
		c.args = append(c.args, param.Type.Zero())
	}
	return p.handlers[class+"."+message](c)
}

// fill leaves so much of an SR; what others take can become less, too.
func (p *Pool) fill(l Lie, sr *object) error {
	p.ballast[sr.ref] = 0
	if err := p.refreshSizes(sr); err != nil {
		return err
	}
	p.ballast[sr.ref] = max(0, sr.integer("physical_size")-sr.integer("physical_utilisation")-l.Free)
	return p.refreshSizes(sr)
}

// stranger lets another VM write to a disk. Of it nothing is left but what it wrote.
func (p *Pool) stranger(l Lie, vdi *object) error {
	vm := p.newVM(map[string]any{
		"name_label": "stranger", "HVM_boot_policy": "BIOS order", "memory_static_max": int64(16 << 20), "VCPUs_max": int64(1),
		"VCPUs_at_startup": int64(1),
	})
	p.db.insert("VBD", map[string]any{"VM": vm.ref, "VDI": vdi.ref, "userdevice": "0", "mode": "RW", "type": "Disk"})
	_, err := p.do("VM", "start", vm.ref)
	if err == nil {
		err = writeNoise(p.volumePath(vdi), l.Blocks, l.chance())
		_, stopped := p.do("VM", "hard_shutdown", vm.ref)
		err = errors.Join(err, stopped)
	}
	_, destroyed := p.do("VM", "destroy", vm.ref)
	return errors.Join(err, destroyed)
}

func (p *Pool) userClone(_ Lie, vm *object) error {
	_, err := p.do("VM", "clone", vm.ref, "Copy of "+vm.text("name_label"))
	return err
}

func (p *Pool) userRevert(_ Lie, vm *object) error {
	var newest *object
	for _, snapshot := range p.db.refs(vm, "snapshots", "VM") {
		if newest == nil || snapshot.created > newest.created {
			newest = snapshot
		}
	}
	if newest == nil {
		return errors.New("it has no snapshot")
	}
	_, err := p.do("VM", "revert", newest.ref)
	return err
}

// powerLoss ends a VM's domain as a crash of its host does, for this VM alone.
func (p *Pool) powerLoss(_ Lie, vm *object) error {
	d := p.domains[vm.ref]
	if d == nil {
		return errors.New("it does not run")
	}
	d.powerLost = true
	c := &call{Pool: p, ctx: p.ctx, task: newRef()}
	return c.kill(d)
}

// failOver begins a fail-over: who tells the lie may be a call to the coordinator that is replaced.
func (p *Pool) failOver(_ Lie, row *object) error {
	h := p.hostOf(row.ref)
	switch {
	case h == nil || h.state == hostDown:
		return errors.New("it is down")
	case h == p.coordinator:
		return errors.New("it is the coordinator already")
	case p.ctx.Err() != nil:
		return errors.New("the pool is closed")
	}
	p.group.Go(func() { _ = p.promote(h, true) }) // it may have gone down meanwhile, as when the pool is closed
	return nil
}

// noise is how much of a block a lie writes.
const noise = 4 << 10

// writeNoise writes into so many blocks of a volume, one if it is told none.
func writeNoise(path string, blocks int, chance *rand.Rand) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	all := chance.Perm(int(info.Size() / blockSize))
	buffer := make([]byte, noise)
	for _, block := range all[:min(len(all), max(1, blocks))] {
		for at := 0; at < len(buffer); at += 8 {
			binary.LittleEndian.PutUint64(buffer[at:], chance.Uint64())
		}
		if _, err := f.WriteAt(buffer, int64(block)*blockSize); err != nil {
			return fmt.Errorf("block %d: %w", block, err)
		}
	}
	return nil
}
