package xapisim

import (
	"os"
	"slices"
	"strings"
)

// drivers are the storage drivers of the pool: those that every host has, and those of the SRs that are there.
func (p *Pool) drivers() []string {
	out := []string{"iso", "lvm", "nfs", "ext", "file"} // transcripts
	for _, sr := range p.config.SRs {
		if !slices.Contains(out, sr.Type) {
			out = append(out, sr.Type)
		}
	}
	return out
}

// createdCapacity is the size of an SR that is created without one (transcripts).
const createdCapacity = 100 << 30

// srCreate makes an SR with its PBDs, plugged: on all hosts, or on the one that is named.
func srCreate(c *call) (any, error) {
	host, err := c.object(0)
	if err != nil {
		return nil, err
	}
	kind := strings.ToLower(c.text(5))
	if !slices.Contains(c.drivers(), kind) {
		return nil, fail("SR_UNKNOWN_DRIVER", c.text(5))
	}
	size := c.integer(2)
	if size <= 0 {
		size = createdCapacity
	}
	sr := c.db.insert("SR", map[string]any{
		"name_label": c.text(3), "name_description": c.text(4), "type": kind, "content_type": c.text(6), "shared": c.boolean(7),
		"sm_config": c.table(8), "physical_size": size,
	})
	c.capacities[sr.uuid()] = size
	if err := os.MkdirAll(c.srDir(sr), 0o755); err != nil {
		c.db.remove(sr)
		return nil, driverError("140", "Could not create the directory of the SR", err)
	}
	for _, h := range c.db.all("host") {
		if c.boolean(7) || h == host {
			c.db.insert("PBD", map[string]any{"host": h.ref, "SR": sr.ref, "device_config": c.table(1), "currently_attached": true})
		}
	}
	return sr.ref, nil
}

// srIntroduce makes a record only. The volumes are found when the SR is plugged and scanned.
func srIntroduce(c *call) (any, error) {
	for _, sr := range c.db.tables["SR"] {
		if sr.uuid() == c.text(0) {
			return nil, fail("SR_UUID_EXISTS", c.text(0))
		}
	}
	return c.db.insert("SR", map[string]any{
		"uuid": c.text(0), "name_label": c.text(1), "name_description": c.text(2), "type": strings.ToLower(c.text(3)),
		"content_type": c.text(4), "shared": c.boolean(5), "sm_config": c.table(6),
		"physical_size": int64(-1), "physical_utilisation": int64(-1),
	}).ref, nil
}

// srForget removes the records of an SR, its VDIs and PBDs. Its volumes stay.
func srForget(c *call) (any, error) {
	sr, err := c.object(0)
	if err != nil {
		return nil, err
	}
	if err := c.admit(func() error { return c.gateSR(sr, "forget") }); err != nil {
		return nil, err
	}
	c.removeSR(sr)
	return nil, nil
}

func (p *Pool) removeSR(sr *object) {
	for _, vdi := range p.db.refs(sr, "VDIs", "VDI") {
		for _, vbd := range p.db.refs(vdi, "VBDs", "VBD") {
			p.db.remove(vbd)
		}
		p.db.remove(vdi)
	}
	for _, pbd := range p.db.refs(sr, "PBDs", "PBD") {
		p.db.remove(pbd)
	}
	p.db.remove(sr)
}

// srDestroy removes an SR without disks, with its storage.
func srDestroy(c *call) (any, error) {
	sr, err := c.object(0)
	if err != nil {
		return nil, err
	}
	if err := c.admit(func() error { return c.gateSR(sr, "destroy") }); err != nil {
		return nil, err
	}
	if sr.table("other_config")["indestructible"] == "true" {
		return nil, fail("SR_INDESTRUCTIBLE", sr.ref)
	}
	for _, vdi := range c.db.refs(sr, "VDIs", "VDI") {
		delete(c.chain, vdi.uuid())
	}
	if err := os.RemoveAll(c.srDir(sr)); err != nil {
		return nil, driverError("138", "The SR could not be removed", err)
	}
	c.removeSR(sr)
	return nil, nil
}

// srProbe finds nothing: there is no storage that the pool does not know (transcripts).
func srProbe(c *call) (any, error) {
	if _, err := c.object(0); err != nil {
		return nil, err
	}
	if !slices.Contains(c.drivers(), strings.ToLower(c.text(2))) {
		return nil, fail("SR_UNKNOWN_DRIVER", c.text(2))
	}
	return "<?xml version=\"1.0\" ?>\n<SRlist/>\n", nil
}

var pbdCalls = map[string]handler{
	"PBD.create": pbdCreate,
	"PBD.destroy": pbdCall(func(c *call, pbd *object) error {
		if pbd.boolean("currently_attached") {
			return fail("OPERATION_NOT_ALLOWED", "PBD is currently attached")
		}
		c.db.remove(pbd)
		return nil
	}),
	"PBD.plug":   pbdCall((*call).plugPBD),
	"PBD.unplug": pbdCall((*call).unplugPBD),
}

func pbdCall(run func(c *call, pbd *object) error) handler {
	return func(c *call) (any, error) {
		pbd, err := c.object(0)
		if err != nil {
			return nil, err
		}
		return nil, run(c, pbd)
	}
}

func pbdCreate(c *call) (any, error) {
	values := c.record(0)
	sr, err := c.db.get("SR", asText(values["SR"]))
	if err != nil {
		return nil, err
	}
	host, err := c.db.get("host", asText(values["host"]))
	if err != nil {
		return nil, err
	}
	if err := c.admit(func() error { return c.gateSR(sr, "pbd_create") }); err != nil {
		return nil, err
	}
	for _, pbd := range c.db.refs(sr, "PBDs", "PBD") {
		if pbd.text("host") == host.ref {
			return nil, fail("PBD_EXISTS", sr.ref, host.ref, pbd.ref)
		}
	}
	values["currently_attached"] = false
	return c.db.insert("PBD", values).ref, nil
}

func (c *call) plugPBD(pbd *object) error {
	sr, err := c.db.get("SR", pbd.text("SR"))
	if err != nil {
		return err
	}
	if !slices.Contains(c.drivers(), sr.text("type")) {
		return fail("SR_UNKNOWN_DRIVER", sr.text("type"))
	}
	if err := c.admit(func() error { return c.gateSR(sr, "plug") }); err != nil {
		return err
	}
	if err := os.MkdirAll(c.srDir(sr), 0o755); err != nil {
		return driverError("47", "The SR is not available", err)
	}
	c.db.set(pbd, "currently_attached", true)
	return nil
}

// unplugPBD takes an SR from a host, unless a VM there uses one of its disks; the error names those disks (xen-api
// ocaml/xapi/xapi_pbd.ml). One that is unplugged already stays so (transcripts).
func (c *call) unplugPBD(pbd *object) error {
	sr, err := c.db.get("SR", pbd.text("SR"))
	if err != nil || !pbd.boolean("currently_attached") {
		return err
	}
	if err := c.admit(func() error { return c.gateSR(sr, "unplug") }); err != nil {
		return err
	}
	var used []string
	for _, vdi := range c.db.refs(sr, "VDIs", "VDI") {
		for _, vbd := range c.attachments(vdi) {
			if vm := c.db.find("VM", vbd.text("VM")); vm != nil && vm.text("resident_on") == pbd.text("host") {
				used = append(used, vdi.ref)
			}
		}
	}
	if used != nil {
		return fail("VDI_IN_USE", used...)
	}
	c.db.set(pbd, "currently_attached", false)
	return nil
}
