package xapisim

import "errors"

// withDom0 attaches a VDI to the control domain of a host, as xapi does for whatever it reads or writes itself, and detaches
// it when run has ended. Its VBD is seen by everybody, and holds off what a guest's would (xapi-facts §10.6). When the
// toolstack goes meanwhile, it stays: clients must unplug and destroy it (trap 4).
func (c *call) withDom0(h *host, vdi *object, mode string, run func() error) error {
	dom0 := c.db.find("VM", c.db.find("host", h.ref).text("control_domain"))
	free := c.freeNumbers(dom0, "VBDs", "VBD", "userdevice", 255)
	if len(free) == 0 {
		return fail("DEVICE_ALREADY_EXISTS", "autodetect")
	}
	vbd := c.db.insert("VBD", map[string]any{
		"VM": dom0.ref, "VDI": vdi.ref, "userdevice": free[0], "mode": mode, "type": "Disk", "unpluggable": true,
	})
	attached := false
	defer func() {
		if !attached || !died(c.ctx) {
			c.db.remove(vbd)
		}
	}()
	err := c.admit(func() error {
		if err := errors.Join(alive(vbd), alive(vdi)); err != nil {
			return err
		}
		if !vdi.boolean("managed") {
			return fail("VDI_NOT_MANAGED", vbd.ref)
		}
		if err := busy(vdi, "copy", "mirror"); err != nil {
			return err
		}
		if sr := c.db.find("SR", vdi.text("SR")); sr == nil || !c.plugged(sr, h.ref) {
			return fail("SR_NO_PBDS", vdi.text("SR"))
		}
		return c.canShare(vbd, vdi)
	})
	if err != nil {
		return err
	}
	c.activate(vdi, mode)
	c.db.set(vbd, "device", deviceName(free[0]))
	c.db.set(vbd, "currently_attached", true)
	attached = true
	if err = run(); died(c.ctx) {
		return err
	}
	c.detached(vbd)
	if sr := c.db.find("SR", vdi.text("SR")); sr != nil {
		return errors.Join(err, c.refreshSizes(sr))
	}
	return err
}
