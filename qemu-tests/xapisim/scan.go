package xapisim

import (
	"cmp"
	"maps"
	"os"
	"path/filepath"
	"strings"
)

// scan makes the records agree with the files: unknown ones become VDIs, VDIs without a file go, sizes are read anew. What
// has a chain or a log but no file is no disk and stays.
func (c *call) scan(sr *object) error {
	files, err := filepath.Glob(filepath.Join(c.srDir(sr), "*.raw"))
	if err != nil {
		return driverError("40", "The SR scan failed", err)
	}
	known := map[string]*object{}
	for _, vdi := range c.db.refs(sr, "VDIs", "VDI") {
		if vdi.boolean("managed") && vdi.text("type") != "cbt_metadata" {
			known[vdi.text("location")] = vdi
		}
	}
	for _, file := range files {
		location := strings.TrimSuffix(filepath.Base(file), ".raw")
		if known[location] == nil {
			info, err := os.Stat(file)
			if err != nil {
				return driverError("40", "The SR scan failed", err)
			}
			c.reintroduce(sr, location, map[string]any{"virtual_size": info.Size(), "type": "user"})
		}
		delete(known, location)
	}
	for _, vdi := range known {
		c.mergeLog(vdi.uuid())
		c.dropLink(vdi.uuid(), sr)
		c.db.remove(vdi)
	}
	c.reintroduceHidden(sr)
	if sr.integer("physical_size") < 0 { // introduced, and not looked at before
		c.db.set(sr, "physical_size", cmp.Or(c.capacities[sr.uuid()], defaultCapacity))
	}
	c.kickCoalesce(sr)
	return c.refreshSizes(sr)
}

// reintroduce makes a record for a volume that is there. Its place in its chain and its log are the volume's own.
func (p *Pool) reintroduce(sr *object, uuid string, values map[string]any) *object {
	values = maps.Clone(values)
	maps.Copy(values, map[string]any{"uuid": uuid, "location": uuid, "SR": sr.ref, "managed": true, "cbt_enabled": p.logs[uuid] != nil})
	vdi := p.db.insert("VDI", values)
	if l := p.chain[uuid]; l != nil {
		p.setLink(vdi, *l)
	}
	return vdi
}

// reintroduceHidden makes records for what has no file: base copies, and logs of snapshots whose data is destroyed.
func (p *Pool) reintroduceHidden(sr *object) {
	for uuid, l := range p.chain {
		if l.own != nil && l.sr == sr.uuid() && p.vdi(uuid) == nil {
			p.insertBase(sr, uuid, *l)
		}
	}
	for uuid, log := range p.logs {
		if log.closed && log.sr == sr.uuid() && p.vdi(uuid) == nil {
			p.reintroduce(sr, uuid, map[string]any{"virtual_size": log.size, "type": "cbt_metadata", "is_a_snapshot": true})
		}
	}
}
