package xapisim

import (
	"errors"
	"fmt"
	"os"
)

// Fixture is an object that a test puts into a pool as it was recorded: members in their form on the wire. Sets that
// mirror the references of other objects are left out; they follow from those.
type Fixture struct {
	Class, Ref string
	Fields     map[string]any
}

// Place puts objects that refer to each other into the pool, with files behind the VDIs. VMs that are Running get a
// domain.
func (p *Pool) Place(fixtures []Fixture) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var placed []*object
	var errs []error
	for _, f := range fixtures {
		values, err := p.fixtureValues(f)
		errs = append(errs, err)
		placed = append(placed, p.db.place(f.Class, f.Ref, values))
	}
	for _, o := range placed {
		if o.class.Name == "VDI" && o.text("location") == "" {
			o.values["location"] = o.uuid()
		}
		for field, v := range o.values {
			p.db.link(o, field, v)
		}
	}
	for _, class := range []string{"SR", "VDI", "VM"} {
		for _, o := range placed {
			if o.class.Name == class {
				errs = append(errs, p.equip(o))
			}
		}
	}
	return errors.Join(errs...)
}

func (p *Pool) fixtureValues(f Fixture) (map[string]any, error) {
	values, mirrored := map[string]any{}, map[string]bool{}
	for _, back := range relations {
		if back.class == f.Class {
			mirrored[back.set] = true
		}
	}
	for _, field := range p.db.model.Classes[f.Class].Fields {
		member, given := f.Fields[field.Name]
		if !given || mirrored[field.Name] {
			continue
		}
		v, err := p.decoder.value(field.Type, member)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", f.Class, field.Name, err)
		}
		values[field.Name] = v
	}
	return values, nil
}

// equip gives an object what stands behind its record.
func (p *Pool) equip(o *object) error {
	switch o.class.Name {
	case "SR":
		return os.MkdirAll(p.srDir(o), 0o755)
	case "VDI":
		sr := p.db.find("SR", o.text("SR"))
		if sr == nil {
			return fmt.Errorf("VDI %s has no SR", o.ref)
		}
		return createVolume(p.ctx, p.volumePath(o), o.integer("virtual_size"), false)
	case "VM":
		if o.text("power_state") != "Running" || o.boolean("is_control_domain") {
			return nil
		}
		values := map[string]any{}
		for field, v := range o.values {
			values[field] = v
		}
		p.db.set(o, "power_state", "Halted")
		p.db.set(o, "guest_metrics", nullRef) // they are to outlive the start
		for _, vbd := range p.db.refs(o, "VBDs", "VBD") {
			p.db.set(vbd, "currently_attached", false)
		}
		if metrics := asText(values["guest_metrics"]); metrics == "" || metrics == nullRef {
			p.driverless[o.uuid()] = true
		}
		c := &call{Pool: p, ctx: p.ctx, client: p.ctx, task: newRef(), message: p.db.model.Classes["VM"].Messages["start"],
			args: []any{o.ref, false, false}}
		if _, err := vmStart(c); err != nil {
			return fmt.Errorf("VM %s: %w", o.text("name_label"), err)
		}
		for field, v := range values {
			if _, set := v.([]string); !set {
				p.db.set(o, field, v)
			}
		}
	}
	return nil
}

// Overwrite gives an object the recorded members that are no references.
func (p *Pool) Overwrite(f Fixture) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	values, err := p.fixtureValues(f)
	if err != nil {
		return err
	}
	o, err := p.db.get(f.Class, f.Ref)
	if err != nil {
		return err
	}
	for field, v := range values {
		p.db.set(o, field, v)
	}
	return nil
}

// Drop takes an object out of the pool, as if it had never been there.
func (p *Pool) Drop(class, ref string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o := p.db.find(class, ref); o != nil {
		p.db.remove(o)
	}
}

// Records are all objects of a class, as get_all_records gives them.
func (p *Pool) Records(class string) map[string]map[string]any {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]map[string]any{}
	for ref, o := range p.db.tables[class] {
		out[ref] = p.record(o)
	}
	return out
}
