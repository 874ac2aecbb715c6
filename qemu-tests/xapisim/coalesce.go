package xapisim

import (
	"time"
)

// kickCoalesce has the base copies of an SR looked through after Config.CoalesceDelay, as a storage driver's garbage
// collector does some time after a snapshot has gone (xapi-facts §13.2).
func (p *Pool) kickCoalesce(sr *object) {
	if p.config.CoalesceDelay < 0 || p.coalescing[sr.ref] || p.ctx.Err() != nil {
		return
	}
	p.coalescing[sr.ref] = true
	p.group.Go(func() {
		select {
		case <-time.After(p.config.CoalesceDelay):
		case <-p.ctx.Done():
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.coalescing, sr.ref)
		p.coalesce(sr)
	})
}

// Coalesce merges at once what can be merged on all SRs: for tests that set Config.CoalesceDelay to never.
func (p *Pool) Coalesce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, sr := range p.db.all("SR") {
		p.coalesce(sr)
	}
}

// coalesce removes base copies that carry nothing, and merges those that carry one volume only and fit, until none is left.
// What does not fit stays, and a message says so until there is room (SM libs/sm/cleanup.py, check_no_space_candidates).
func (p *Pool) coalesce(sr *object) {
	outcome := merged
	for outcome == merged && !sr.deleted {
		_ = p.refreshSizes(sr) // of a volume that cannot be read the record says that it is missing
		outcome = unmerged
		for _, base := range p.db.refs(sr, "VDIs", "VDI") {
			if l := p.chain[base.uuid()]; l != nil && l.own != nil && outcome != merged {
				outcome = max(outcome, p.merge(base, l, free(sr)))
			}
		}
	}
	if sr.deleted {
		return
	}
	const message, key = "SM_GC_NO_SPACE", "gc_no_space"
	switch told := sr.table("sm_config")[key] != ""; {
	case outcome == full && !told:
		text := "Unable to perform data coalesce due to a lack of space in SR " + sr.uuid()
		p.db.put(sr, "sm_config", key, p.say(message, 3, "SR", sr.uuid(), text).ref)
	case outcome != full && told:
		if m := p.db.find("message", sr.table("sm_config")[key]); m != nil {
			p.db.remove(m)
		}
		p.db.take(sr, "sm_config", key)
	}
}

// merging is what has come of an attempt to merge.
type merging int

const (
	unmerged merging = iota
	full             // there is no room for it
	merged
)

// merge takes one base copy out of its chain if it can go. Managed VDIs keep their uuids, whatever is merged. What the lower
// volume grows by must be free before (SM libs/sm/cleanup.py, _calcExtraSpaceForCoalescing).
func (p *Pool) merge(base *object, l *link, free int64) merging {
	above := p.above(base.uuid())
	switch len(above) {
	case 0:
		delete(p.chain, base.uuid())
		p.db.remove(base)
		return merged
	case 1:
	default:
		return unmerged
	}
	upper := p.vdi(above[0])
	if upper == nil { // forgotten: a scan brings it back or finds it gone
		return unmerged
	}
	top := p.chain[above[0]]
	if top.own == nil { // a disk: it takes the place of what is below it
		switch {
		case upper.table("other_config")["leaf-coalesce"] == "false", len(upper.table("current_operations")) > 0:
			return unmerged
		case !thick(p.db.find("SR", base.text("SR"))) && upper.integer("physical_utilisation")-vhdOverhead > free: // a thick one has its room
			return full
		}
		p.setLink(upper, link{parent: l.parent, since: l.since})
		delete(p.chain, base.uuid())
		p.db.remove(base)
		return merged
	}
	if difference(top.own, l.since)-difference(l.own, l.since) > free {
		return full
	}
	// A base copy on a base copy: the upper's data goes into the lower, which then carries what the upper carried.
	l.own, l.bytes, l.size = top.own, top.bytes, measure{}
	p.db.set(base, "virtual_size", l.bytes)
	for _, uuid := range p.above(upper.uuid()) {
		if vdi := p.vdi(uuid); vdi != nil {
			moved := *p.chain[uuid]
			moved.parent = base.uuid()
			p.setLink(vdi, moved)
		} else {
			p.chain[uuid].parent = base.uuid()
		}
	}
	delete(p.chain, upper.uuid())
	p.db.remove(upper)
	return merged
}

// vdi finds a VDI by its uuid; nil when there is none.
func (p *Pool) vdi(uuid string) *object {
	for _, vdi := range p.db.tables["VDI"] {
		if vdi.uuid() == uuid {
			return vdi
		}
	}
	return nil
}
