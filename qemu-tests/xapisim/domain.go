package xapisim

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

// domain is a running VM: its guest and what dom0 knows of it. Guarded by Pool.mu, but for hotplug.
type domain struct {
	vm        *object
	guest     Guest
	paused    bool          // by VM.pause or a start in pause
	held      int           // so many copies of its disks are being made
	stopped   bool          // the guest's processors stand still
	frozen    bool          // the guest has lost its write access to vm-data (xapi-facts §7.2)
	hotplug   chan struct{} // holds one token: plugs and unplugs of a VM are queued one at a time (xapi-facts §8.3)
	quiet     bool          // the records do not tell that it has ended: its host is gone, or it is to be built anew
	powerLost bool          // it ends with its host's power, and its disks lose what was not durable
	ended     chan struct{} // closed when the records show that it has ended
}

func (p *Pool) newDomain(vm *object, guest Guest) *domain {
	d := &domain{vm: vm, guest: guest, hotplug: make(chan struct{}, 1), ended: make(chan struct{})}
	p.domains[vm.ref] = d
	if p.ctx.Err() != nil {
		_ = guest.Kill() // Close has not seen it
	}
	p.group.Go(func() { p.watch(d) })
	return d
}

// watch mirrors what the guest publishes until it ends.
func (p *Pool) watch(d *domain) {
	delay := time.NewTimer(p.config.GuestMetricsDelay)
	defer delay.Stop()
	visible := false
	for ended := false; !ended; {
		select {
		case <-d.guest.Changed():
		case <-delay.C:
			visible = true
		case <-d.guest.Done():
			ended = true
		}
		tree, err := d.guest.Tree()
		p.mu.Lock()
		if err == nil { // an unreadable tree is one that is being written: the next change shows it
			p.mirrorData(d, tree)
			if visible {
				p.mirrorMetrics(d, tree)
			}
		}
		if ended {
			p.endDomain(d)
		}
		p.mu.Unlock()
	}
}

// maxMirroredKeys bounds what a guest can make xapi mirror (xapi-facts §7.3).
const maxMirroredKeys = 128

// mirrorData replaces VM.xenstore_data by the guest's vm-data tree, the nodes of directories included. Other keys vanish
// (xapi-facts §7.3).
func (p *Pool) mirrorData(d *domain, tree map[string]string) {
	if d.frozen {
		return
	}
	data := map[string]string{"vm-data": ""}
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		if strings.HasPrefix(key, "vm-data/") && len(data) < maxMirroredKeys {
			data[key] = strings.ToValidUTF8(tree[key], "?")
		}
	}
	p.db.set(d.vm, "xenstore_data", data)
}

// endDomain writes that a VM has halted, unless the domain ends quietly.
func (p *Pool) endDomain(d *domain) {
	if d.powerLost {
		p.loseWrites(d.vm)
	}
	if p.domains[d.vm.ref] == d {
		delete(p.domains, d.vm.ref)
		if !d.quiet {
			p.haltRecords(d.vm)
		}
	}
	close(d.ended)
}

// idleMetrics writes that a VM has no domain into its metrics; the time of its last start stays.
func (p *Pool) idleMetrics(vm *object) {
	if metrics := p.db.find("VM_metrics", vm.text("metrics")); metrics != nil {
		for field, value := range map[string]any{"VCPUs_number": int64(0), "memory_actual": int64(0), "hvm": false, "current_domain_type": "unspecified"} {
			p.db.set(metrics, field, value)
		}
	}
}

// haltRecords writes that a VM has no domain. Its guest metrics and its vm-data stay, stale (xapi-facts §7.3, §7.4).
func (p *Pool) haltRecords(vm *object) {
	p.detachAll(vm)
	p.idleMetrics(vm)
	p.db.set(vm, "domid", int64(-1))
	p.db.set(vm, "resident_on", nullRef)
	p.db.set(vm, "memory_target", int64(0))
	p.db.set(vm, "power_state", "Halted")
}

func (p *Pool) detachAll(vm *object) {
	for _, vbd := range p.db.refs(vm, "VBDs", "VBD") {
		p.detached(vbd)
	}
	for _, vif := range p.db.refs(vm, "VIFs", "VIF") {
		p.db.set(vif, "currently_attached", false)
	}
}

// detached writes that a VBD is attached no more. It keeps the name that its device had (transcripts).
func (p *Pool) detached(vbd *object) {
	p.db.set(vbd, "currently_attached", false)
	if vdi := p.db.find("VDI", vbd.text("VDI")); vdi != nil {
		p.deactivate(vdi)
	}
}

// settle stops or continues the guest's processors as paused and held ask for.
func (d *domain) settle() error {
	stop := d.paused || d.held > 0
	if stop == d.stopped {
		return nil
	}
	d.stopped = stop
	if stop {
		return d.guest.Pause()
	}
	return d.guest.Unpause()
}

// holdWriters stops every guest that could write to a disk while a copy of it is made, so that the copy is of one
// moment, as a storage driver's is.
func (p *Pool) holdWriters(vdi *object) (release func()) {
	var held []*domain
	for _, vbd := range p.attachments(vdi) {
		if d := p.domains[vbd.text("VM")]; d != nil && vbd.text("mode") == "RW" {
			held = append(held, d)
		}
	}
	change := func(by int) {
		for _, d := range held {
			d.held += by
			_ = d.settle() // fails only when the guest has ended, and then it writes no more
		}
	}
	change(1)
	return func() { change(-1) }
}

// waitEnd waits, with Pool.mu released, until the records show that a domain has ended.
func (c *call) waitEnd(ctx context.Context, d *domain) error {
	return c.unlocked(func() error {
		select {
		case <-d.ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

func (c *call) kill(d *domain) error {
	if err := d.guest.Kill(); err != nil {
		return internal("kill: " + err.Error())
	}
	return c.waitEnd(c.ctx, d)
}
