package xapisim

import (
	"strings"
)

var mediaCalls = map[string]handler{
	"VBD.insert": func(c *call) (any, error) {
		vdi, err := c.object(1)
		if err != nil {
			return nil, err
		}
		return c.changeMedia(false, func(vbd *object) error {
			if !vdi.boolean("managed") {
				return fail("VDI_NOT_MANAGED", vdi.ref)
			}
			if vbd.boolean("currently_attached") {
				if err := c.canShare(vbd, vdi); err != nil {
					return err
				}
			}
			c.db.set(vbd, "VDI", vdi.ref)
			c.db.set(vbd, "empty", false)
			return nil
		})
	},
	"VBD.eject": func(c *call) (any, error) {
		return c.changeMedia(true, func(vbd *object) error {
			c.db.set(vbd, "VDI", nullRef)
			c.db.set(vbd, "empty", true)
			return nil
		})
	},
}

// changeMedia puts a disc into a drive or takes it out, whether its VM runs or not (xapi-facts §6.4, transcripts).
func (c *call) changeMedia(eject bool, run func(vbd *object) error) (any, error) {
	vbd, vm, err := c.vbdAndVM()
	if err != nil {
		return nil, err
	}
	if err := c.admit(func() error { return busy(vbd) }); err != nil {
		return nil, err
	}
	state := vm.text("power_state")
	switch {
	case vbd.text("type") != "CD":
		return nil, fail("VBD_NOT_REMOVABLE_MEDIA", vbd.ref)
	case eject && vbd.boolean("empty"):
		return nil, fail("VBD_IS_EMPTY", vbd.ref)
	case !eject && !vbd.boolean("empty"):
		return nil, fail("VBD_NOT_EMPTY", vbd.ref)
	case state == "Suspended":
		return nil, fail("VM_BAD_POWER_STATE", vm.ref, "halted, running", strings.ToLower(state))
	}
	return nil, run(vbd)
}
