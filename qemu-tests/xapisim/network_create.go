package xapisim

import (
	"slices"
	"strconv"
)

var networkCreateCalls = map[string]handler{
	"network.create":         networkCreate,
	"network.add_purpose":    addPurpose,
	"network.remove_purpose": removePurpose,
}

// networkCreate gives a network without a bridge one of the names xapi0, xapi1, … (xen-api ocaml/xapi/xapi_network.ml).
func networkCreate(c *call) (any, error) {
	values := c.record(0)
	if mtu, _ := values["MTU"].(int64); mtu <= 0 {
		values["MTU"] = int64(1500)
	}
	taken := map[string]bool{}
	for _, network := range c.db.all("network") {
		taken[network.text("bridge")] = true
	}
	for n := 0; asText(values["bridge"]) == ""; n++ {
		if name := "xapi" + strconv.Itoa(n); !taken[name] {
			values["bridge"] = name
		}
	}
	return c.db.insert("network", values).ref, nil
}

// addPurpose keeps the two kinds of NBD apart in all of the pool (xapi-facts §12).
func addPurpose(c *call) (any, error) {
	network, err := c.object(0)
	if err != nil {
		return nil, err
	}
	other := map[string]string{"nbd": "insecure_nbd", "insecure_nbd": "nbd"}[c.text(1)]
	for _, n := range c.db.all("network") {
		if slices.Contains(n.list("purpose"), other) {
			return nil, fail("NETWORK_INCOMPATIBLE_PURPOSES", c.text(1), other)
		}
	}
	if purpose := network.list("purpose"); !slices.Contains(purpose, c.text(1)) {
		c.db.set(network, "purpose", append([]string{c.text(1)}, purpose...))
	}
	return nil, nil
}

func removePurpose(c *call) (any, error) {
	network, err := c.object(0)
	if err != nil {
		return nil, err
	}
	left := slices.DeleteFunc(slices.Clone(network.list("purpose")), func(p string) bool { return p == c.text(1) })
	c.db.set(network, "purpose", left)
	return nil, nil
}
