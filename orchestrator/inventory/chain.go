package inventory

import "github.com/understudy-dr/understudy/orchestrator/xapi"

// MaxChain is how many volumes may lie on top of each other on a storage repository of VHDs (xapi-facts §13.2): one snapshot
// more is refused.
const MaxChain = 30

// parentKey is the key of VDI.sm_config that names, by its uuid, the volume below a VHD (xapi-facts §13.2).
const parentKey = "vhd-parent"

// Chains tells how disks lie on top of each other. Storage that has no chains has them of one volume each.
type Chains struct {
	parents  map[string]string // by uuid
	children map[string]int    // by the parent's uuid
	hidden   map[string]bool   // base copies, by uuid
}

// Chain is what lies below a disk, the disk included.
type Chain struct {
	Length int // volumes
	// Pending are base copies that only one volume lies on: the storage has yet to merge them, and until then neither they nor
	// their space are gone.
	Pending int
}

// Chains reads the chains of all disks.
func (p *Pool) Chains() Chains {
	c := Chains{parents: map[string]string{}, children: map[string]int{}, hidden: map[string]bool{}}
	for _, vdi := range p.VDIs {
		if parent := vdi.SMConfig[parentKey]; parent != "" {
			c.parents[vdi.UUID] = parent
			c.children[parent]++
		}
		c.hidden[vdi.UUID] = !vdi.Managed
	}
	return c
}

// Of is the chain of a disk. Chains longer than the storage allows, or that end in themselves, are not followed to their end.
func (c Chains) Of(vdi xapi.VDI) Chain {
	chain := Chain{Length: 1}
	for parent := c.parents[vdi.UUID]; parent != "" && chain.Length <= MaxChain; parent = c.parents[parent] {
		chain.Length++
		if c.hidden[parent] && c.children[parent] == 1 {
			chain.Pending++
		}
	}
	return chain
}
