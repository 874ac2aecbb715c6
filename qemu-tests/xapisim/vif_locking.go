package xapisim

import "github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"

var vifLockingCalls = map[string]handler{
	"VIF.set_locking_mode":    vifLocking("locking_mode", setter),
	"VIF.set_ipv4_allowed":    vifLocking("ipv4_allowed", setter),
	"VIF.add_ipv4_allowed":    vifLocking("ipv4_allowed", memberAdder),
	"VIF.remove_ipv4_allowed": vifLocking("ipv4_allowed", memberRemover),
	"VIF.set_ipv6_allowed":    vifLocking("ipv6_allowed", setter),
	"VIF.add_ipv6_allowed":    vifLocking("ipv6_allowed", memberAdder),
	"VIF.remove_ipv6_allowed": vifLocking("ipv6_allowed", memberRemover),
	"VIF.move":                vifMove,
}

// vifLocking is an accessor of a field that locks a VIF to addresses, for which a licence is needed (xapi-facts §6.5).
func vifLocking(field string, access func(*datamodel.Field) handler) handler {
	return func(c *call) (any, error) {
		if err := c.licensed("VIF_locking"); err != nil {
			return nil, err
		}
		return access(c.db.model.Classes["VIF"].Field(field))(c)
	}
}

func vifMove(c *call) (any, error) {
	vif, err := c.object(0)
	if err != nil {
		return nil, err
	}
	network, err := c.object(1)
	if err != nil {
		return nil, err
	}
	if vm := c.db.find("VM", vif.text("VM")); vm != nil && vif.boolean("currently_attached") {
		if host := c.db.find("host", vm.text("resident_on")); host != nil && !c.networkOn(network, host) {
			return nil, fail("HOST_CANNOT_ATTACH_NETWORK", host.ref, network.ref)
		}
	}
	c.db.set(vif, "network", network.ref)
	return nil, nil
}
