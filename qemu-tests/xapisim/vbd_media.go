package xapisim

import "errors"

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
	vbd, err := c.object(0)
	if err != nil {
		return nil, err
	}
	operation := map[bool]string{true: "eject", false: "insert"}[eject]
	if err := c.admit(func() error { return errors.Join(alive(vbd), c.vbdGate(vbd, operation)) }); err != nil {
		return nil, err
	}
	return nil, run(vbd)
}
