package xapisim

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// Lie is a way in which a pool's storage, or somebody in the pool, does what a replication product must not trust it not to
// do (design §7). Some lies are told at once by Pool.Lie; others stand from then on, and are told whenever there is an
// occasion. A Rule can have a lie told when a call comes.
//
//	garbage        an SR of a thick type: its new volumes hold what was on the device before       stands
//	lost-writes    an SR or a VDI: when the power of a host or a VM is lost, so is what was         stands
//	               written to attached disks since they were last durable, but for Keep of the
//	               64 KiB blocks. Durable are attached disks at the moment they are attached, when
//	               a snapshot or a clone of them is made, and at Pool.Flushed
//	torn-snapshot  a VM: while it runs, its guest writes to all its disks after each snapshot of    stands
//	               one of them, so that the snapshots of a VM's disks are not of one moment
//	missing-bit    an SR or a VDI: list_changed_blocks leaves out one block that has changed        stands
//	fill           an SR: others' data leaves Free bytes of it
//	stranger       a VDI: another VM, started for it and destroyed after, writes to the disk
//	user-clone     a VM: an administrator clones it, markers and all
//	user-revert    a VM: an administrator reverts it to its newest snapshot
//	power-loss     a VM: its domain is gone as if its host had lost its power
//	fail-over      a host: it becomes the coordinator, as by Pool.Promote, while the call is carried out
//
// What is imitated, and what is not: no world tells the simulator when a guest flushes, so lost-writes takes what a real
// SR may have kept, unless Pool.Flushed is called. The blocks that a lie writes are 4 KiB of noise each. An SR that is full
// refuses new volumes, snapshots and growth; a guest's writes to the disks that it has are never refused.
type Lie struct {
	Kind   string
	Object string // reference, uuid or name_label
	Count  int    // so often a standing lie is told; 0 means always
	Blocks int
	Free   int64   // bytes
	Keep   float64 // 0 to 1
	Seed   uint64  // of what is drawn: blocks, and which of them are kept
}

// lieKinds are the kinds with the classes of what they can be about, and how they are told; without that they stand.
var lieKinds = map[string]struct {
	classes []string
	tell    func(p *Pool, l Lie, o *object) error
}{
	"garbage":       {classes: []string{"SR"}},
	"lost-writes":   {classes: []string{"SR", "VDI"}},
	"torn-snapshot": {classes: []string{"VM"}},
	"missing-bit":   {classes: []string{"SR", "VDI"}},
	"fill":          {[]string{"SR"}, (*Pool).fill},
	"stranger":      {[]string{"VDI"}, (*Pool).stranger},
	"user-clone":    {[]string{"VM"}, (*Pool).userClone},
	"user-revert":   {[]string{"VM"}, (*Pool).userRevert},
	"power-loss":    {[]string{"VM"}, (*Pool).powerLoss},
}

// What a fail-over needs leads to rules, and so back to the kinds of lies.
func init() {
	kind := lieKinds["power-loss"]
	kind.classes, kind.tell = []string{"host"}, (*Pool).failOver
	lieKinds["fail-over"] = kind
}

// ParseLie reads a lie from JSON, such as {"kind":"fill","object":"shared","free":1048576}. It takes nothing that it does not know,
// and nothing twice.
func ParseLie(data []byte) (Lie, error) {
	var l Lie
	err := readMembers(data, map[string]func(json.RawMessage) error{
		"kind":   func(raw json.RawMessage) error { return strict(raw, &l.Kind, "a string") },
		"object": func(raw json.RawMessage) error { return strict(raw, &l.Object, "a string") },
		"count":  func(raw json.RawMessage) error { return strict(raw, &l.Count, "a number of occasions") },
		"blocks": func(raw json.RawMessage) error { return strict(raw, &l.Blocks, "a number of blocks") },
		"free":   func(raw json.RawMessage) error { return strict(raw, &l.Free, "a number of bytes") },
		"keep":   func(raw json.RawMessage) error { return strict(raw, &l.Keep, "a number from 0 to 1") },
		"seed":   func(raw json.RawMessage) error { return strict(raw, &l.Seed, "a whole number") },
	})
	if err != nil {
		return Lie{}, fmt.Errorf("a lie: %w", err)
	}
	return l, l.Check()
}

// Check tells what is wrong with a lie, whatever the pool.
func (l Lie) Check() error {
	switch {
	case lieKinds[l.Kind].classes == nil:
		return fmt.Errorf("there is no lie %q: want one of %s", l.Kind, strings.Join(slices.Sorted(maps.Keys(lieKinds)), ", "))
	case l.Object == "":
		return fmt.Errorf("lie %s: object is missing: want a reference, uuid or name_label", l.Kind)
	case l.Count < 0, l.Blocks < 0, l.Free < 0:
		return fmt.Errorf("lie %s: count, blocks and free cannot be negative", l.Kind)
	case !(l.Keep >= 0 && l.Keep <= 1):
		return fmt.Errorf("lie %s: keep is %v: want 0 to 1", l.Kind, l.Keep)
	}
	return nil
}

// standingLie is a lie for which an occasion is awaited.
type standingLie struct {
	Lie
	about  string // reference
	chance *rand.Rand
	told   int
}

// Lie tells a lie, or has it stand. It fails when there is no such object, or when what the lie needs is refused.
func (p *Pool) Lie(l Lie) error {
	if err := l.Check(); err != nil {
		return fmt.Errorf("xapisim: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	kind := lieKinds[l.Kind]
	about := p.called(l.Object, kind.classes)
	if about == nil {
		return fmt.Errorf("xapisim: lie %s: there is no %s called %q", l.Kind, strings.Join(kind.classes, " or "), l.Object)
	}
	var err error
	switch {
	case kind.tell != nil:
		err = kind.tell(p, l, about)
	case l.Kind == "garbage" && !thick(about):
		err = fmt.Errorf("new volumes of type %s read as zeroes", about.text("type"))
	default:
		p.lies = append(p.lies, &standingLie{Lie: l, about: about.ref, chance: l.chance()})
	}
	if err != nil {
		return fmt.Errorf("xapisim: lie %s about %s: %w", l.Kind, l.Object, err)
	}
	return nil
}

func (l Lie) chance() *rand.Rand { return rand.New(rand.NewPCG(l.Seed, 0)) }

// called finds what a lie is about: of several objects of a name the oldest that is neither a snapshot nor unmanaged.
func (p *Pool) called(name string, classes []string) *object {
	var second *object
	for _, class := range classes {
		for _, o := range p.db.all(class) {
			switch {
			case o.ref == name, o.uuid() == name:
				return o
			case o.text("name_label") != name || o.boolean("is_a_snapshot") || class == "VDI" && !o.boolean("managed"):
			case second == nil:
				second = o
			}
		}
	}
	return second
}

// lie gives a standing lie about one of these objects, or nil.
func (p *Pool) lie(kind string, about ...*object) *standingLie {
	for _, l := range p.lies {
		if l.Kind != kind || l.Count > 0 && l.told >= l.Count {
			continue
		}
		if slices.ContainsFunc(about, func(o *object) bool { return o != nil && o.ref == l.about }) {
			return l
		}
	}
	return nil
}

// noisy tells whether a new volume of an SR holds what was there before.
func (p *Pool) noisy(sr *object) bool {
	l := p.lie("garbage", sr)
	if l != nil {
		l.told++
	}
	return l != nil || p.garbage[sr.ref]
}

// leaveOut clears a set bit of a bitmap.
func (l *standingLie) leaveOut(bitmap []byte) {
	var set []int
	for n := range len(bitmap) * 8 {
		if bitmap[n/8]&(0x80>>(n%8)) != 0 {
			set = append(set, n)
		}
	}
	if len(set) > 0 {
		n := set[l.chance.IntN(len(set))]
		bitmap[n/8] &^= 0x80 >> (n % 8)
		l.told++
	}
}

// tear writes to all disks of a running VM, as its guest might between the snapshots of two of them.
func (c *call) tear(vm *object) error {
	l := c.lie("torn-snapshot", vm)
	if l == nil || vm.text("power_state") != "Running" {
		return nil
	}
	for _, vbd := range c.sortedVBDs(vm) {
		vdi := c.db.find("VDI", vbd.text("VDI"))
		if vdi == nil || vbd.text("mode") != "RW" {
			continue
		}
		if err := writeNoise(c.volumePath(vdi), l.Blocks, l.chance); err != nil {
			return internal("torn-snapshot: " + err.Error())
		}
	}
	l.told++
	return nil
}
