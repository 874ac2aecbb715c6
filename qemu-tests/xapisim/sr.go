package xapisim

import (
	"fmt"
	"slices"
)

var srCalls = map[string]handler{
	"SR.scan": func(c *call) (any, error) {
		return srCall(c, "scan", func(sr *object) error { return c.scan(sr) })
	},
	"SR.update": func(c *call) (any, error) {
		return srCall(c, "update", func(sr *object) error { return c.refreshSizes(sr) })
	},
	"SR.create":              srCreate,
	"SR.introduce":           srIntroduce,
	"SR.forget":              srForget,
	"SR.destroy":             srDestroy,
	"SR.probe":               srProbe,
	"SR.get_supported_types": func(c *call) (any, error) { return c.drivers(), nil },
}

// thick types take a volume's whole size at once; new volumes of raw ones hold what was there before
// (xapi-facts §6.7).
var thickTypes = []string{"lvm", "lvmoiscsi", "lvmohba"}

func thick(sr *object) bool { return slices.Contains(thickTypes, sr.text("type")) }

func srCall(c *call, operation string, run func(sr *object) error) (any, error) {
	sr, err := c.object(0)
	if err != nil {
		return nil, err
	}
	return nil, c.onSR(sr, operation, func() error { return run(sr) })
}

// onSR runs an operation of the storage driver: one at a time on an SR, which must be plugged on the coordinator or, for
// a local SR, on its host (xapi-facts §6.7).
func (c *call) onSR(sr *object, operation string, run func() error) error {
	if err := c.admit(func() error { return c.gateSR(sr, operation) }); err != nil {
		return err
	}
	if !c.plugged(sr, "") {
		return fail("SR_HAS_NO_PBDS", sr.ref)
	}
	defer c.begin(sr, operation)()
	return run()
}

// plugged tells whether a host, or any host when it is "", has the SR plugged.
func (p *Pool) plugged(sr *object, host string) bool {
	return slices.ContainsFunc(p.db.refs(sr, "PBDs", "PBD"), func(pbd *object) bool {
		return pbd.boolean("currently_attached") && (host == "" || pbd.text("host") == host)
	})
}

// refreshSizes reads how much each volume and the SR take. Pool.mu may be released meanwhile.
func (p *Pool) refreshSizes(sr *object) error {
	var used, virtual int64
	for _, vdi := range p.db.refs(sr, "VDIs", "VDI") {
		taken, err := p.taken(vdi, sr)
		if isContext(err) {
			return err
		} else if err != nil {
			p.db.set(vdi, "missing", true)
			continue
		}
		if vdi.deleted {
			continue
		}
		p.db.set(vdi, "physical_utilisation", taken)
		used += taken
		virtual += vdi.integer("virtual_size")
	}
	p.db.set(sr, "physical_utilisation", used+p.ballast[sr.ref])
	p.db.set(sr, "virtual_allocation", virtual)
	return nil
}

// reserve refuses what does not fit. A thick SR gives the whole size away; of a thin one a new volume takes next to
// nothing, so that it only must not be full.
func (p *Pool) reserve(sr *object, size int64) error {
	if err := p.refreshSizes(sr); err != nil {
		return err
	}
	need := size
	if !thick(sr) {
		need = sizeStep
	}
	if have := free(sr); need > have {
		return fail("SR_BACKEND_FAILURE_44", "", "There is insufficient space", fmt.Sprintf("need %d, have %d", need, max(0, have)))
	}
	return nil
}

// free is the room that an SR's record shows; it is negative when others have taken more than there was.
func free(sr *object) int64 { return sr.integer("physical_size") - sr.integer("physical_utilisation") }
