package xapisim

import (
	"maps"
)

// parentKey is the key of a VDI's sm_config that names the volume below it (xapi-facts §13.2).
const parentKey = "vhd-parent"

// maxChain is how many volumes may lie on top of each other (SM libs/sm/vhdutil.py, MAX_CHAIN_SIZE).
const maxChain = 30

// link is a volume's place in a chain. A snapshot or a clone makes the volume as it was an unmanaged 'base copy', on
// which both the disk and its copy then lie. The simulator's files are whole, so a base copy has a record but no file: it
// is there for what can be seen of chains, which are their length, the space they take, and their slow merging.
type link struct {
	parent string   // uuid of the base copy below, or ""
	since  contents // what the base copy below holds
	own    contents // what a base copy holds; nil of a volume that has a file
	sr     string   // uuid, of a base copy
	bytes  int64    // a base copy's virtual size
	size   measure
}

// pile puts a disk and its new copy, which both hold the same, on a new base copy. A disk that has not been written
// since its own base copy makes none: the copy then lies on the same (vhd-util does so, too).
func (p *Pool) pile(vdi, made, sr *object, held contents) {
	below := p.linkOf(vdi)
	next := link{parent: below.parent, since: below.since}
	if len(held.changed(below.since)) > 0 {
		base := p.insertBase(sr, newUUID(), link{
			parent: below.parent, since: below.since, own: held, sr: sr.uuid(), bytes: vdi.integer("virtual_size"),
		})
		next = link{parent: base.uuid(), since: held}
	}
	p.setLink(vdi, next)
	p.setLink(made, next)
}

func (p *Pool) insertBase(sr *object, uuid string, l link) *object {
	base := p.db.insert("VDI", map[string]any{
		"uuid": uuid, "location": uuid, "name_label": "base copy", "managed": false, "read_only": true, "type": "user", "SR": sr.ref,
		"virtual_size": l.bytes,
	})
	p.setLink(base, l)
	return base
}

func (p *Pool) linkOf(vdi *object) link {
	if known := p.chain[vdi.uuid()]; known != nil {
		return *known
	}
	return link{}
}

func (p *Pool) setLink(vdi *object, l link) {
	p.chain[vdi.uuid()] = &l
	config := maps.Clone(vdi.table("sm_config"))
	delete(config, parentKey)
	if l.parent != "" {
		if config == nil {
			config = map[string]string{}
		}
		config[parentKey] = l.parent
	}
	p.db.set(vdi, "sm_config", config)
}

// dropLink takes a volume out of its chain. What it leaves below is merged later.
func (p *Pool) dropLink(uuid string, sr *object) {
	if l := p.chain[uuid]; l != nil {
		delete(p.chain, uuid)
		if l.parent != "" {
			p.kickCoalesce(sr)
		}
	}
}

// depth counts the volumes of a chain from a VDI down.
func (p *Pool) depth(vdi *object) int {
	n := 1
	for l := p.chain[vdi.uuid()]; l != nil && l.parent != ""; l = p.chain[l.parent] {
		n++
	}
	return n
}

// above are the volumes that lie on a base copy.
func (p *Pool) above(base string) []string {
	var out []string
	for uuid, l := range p.chain {
		if l.parent == base {
			out = append(out, uuid)
		}
	}
	return out
}
