package xapisim

import "strconv"

// networkCalls are those of interfaces and networks that do more than their accessors. Networks carry nothing here: the
// records alone are kept.
var networkCalls = map[string]handler{
	"PIF.scan": func(c *call) (any, error) {
		_, err := c.object(0) // the interfaces of a simulated host do not change
		return nil, err
	},
	"PIF.plug":     pifCall(func(c *call, pif *object) { c.db.set(pif, "currently_attached", true) }),
	"PIF.unplug":   pifCall(func(c *call, pif *object) { c.db.set(pif, "currently_attached", false) }),
	"VLAN.create":  vlanCreate,
	"VLAN.destroy": vlanDestroy,
	"network.destroy": func(c *call) (any, error) {
		network, err := c.object(0)
		if err != nil {
			return nil, err
		}
		for _, vif := range c.db.refs(network, "VIFs", "VIF") {
			if vif.boolean("currently_attached") {
				return nil, fail("NETWORK_CONTAINS_VIF", vif.ref)
			}
		}
		if pifs := network.list("PIFs"); len(pifs) > 0 {
			return nil, fail("NETWORK_CONTAINS_PIF", pifs...)
		}
		c.db.remove(network)
		return nil, nil
	},
}

func pifCall(run func(*call, *object)) handler {
	return func(c *call) (any, error) {
		pif, err := c.object(0)
		if err == nil {
			run(c, pif)
		}
		return nil, err
	}
}

// vlanCreate makes a VLAN and its untagged interface on top of a physical one (xen-api ocaml/xapi/xapi_vlan.ml).
func vlanCreate(c *call) (any, error) {
	tagged, err := c.object(0)
	if err != nil {
		return nil, err
	}
	network, err := c.object(2)
	if err != nil {
		return nil, err
	}
	tag := c.integer(1)
	if tag < 0 || tag > 4094 {
		return nil, fail("VLAN_TAG_INVALID", strconv.FormatInt(tag, 10))
	}
	for _, pif := range c.db.refs(network, "PIFs", "PIF") {
		if pif.text("host") == tagged.text("host") {
			return nil, fail("NETWORK_ALREADY_CONNECTED", pif.text("host"), pif.ref)
		}
	}
	for _, pif := range c.db.tables["PIF"] {
		if pif.text("host") == tagged.text("host") && pif.text("device") == tagged.text("device") && pif.integer("VLAN") == tag {
			return nil, fail("PIF_VLAN_EXISTS", tagged.ref)
		}
	}
	if tagged.text("VLAN_master_of") != nullRef {
		return nil, fail("PIF_IS_VLAN", tagged.ref)
	}
	untagged := c.db.insert("PIF", map[string]any{
		"device": tagged.text("device"), "network": network.ref, "host": tagged.text("host"), "MAC": tagged.text("MAC"),
		"MTU": tagged.integer("MTU"), "VLAN": tag, "metrics": tagged.text("metrics"), "currently_attached": false,
	})
	vlan := c.db.insert("VLAN", map[string]any{"tagged_PIF": tagged.ref, "untagged_PIF": untagged.ref, "tag": tag})
	c.db.set(untagged, "VLAN_master_of", vlan.ref)
	return vlan.ref, nil
}

func vlanDestroy(c *call) (any, error) {
	vlan, err := c.object(0)
	if err != nil {
		return nil, err
	}
	if untagged := c.db.find("PIF", vlan.text("untagged_PIF")); untagged != nil {
		c.db.set(untagged, "metrics", nullRef) // they are those of the tagged one
		c.db.remove(untagged)
	}
	c.db.remove(vlan)
	return nil, nil
}
