package xapisim

import (
	"maps"
	"regexp"
	"strconv"
	"strings"
)

// mirrorMetrics decodes the agent's keys into the VM's guest metrics (xapi-facts §7.4). The object is new at each boot.
func (p *Pool) mirrorMetrics(d *domain, tree map[string]string) {
	metrics := p.db.find("VM_guest_metrics", d.vm.text("guest_metrics"))
	if metrics == nil {
		metrics = p.db.insert("VM_guest_metrics", map[string]any{"last_updated": now(), "live": true})
		p.db.set(d.vm, "guest_metrics", metrics.ref)
	}
	_, drivers := tree["attr/PVAddons/MajorVersion"]
	before := metrics.modified
	for field, value := range map[string]any{
		"networks": addresses(tree), "other": otherKeys(tree),
		"os_version": pick(tree, map[string]string{
			"name": "data/os_name", "uname": "data/os_uname", "distro": "data/os_distro", "major": "data/os_majorver", "minor": "data/os_minorver",
			"spmajor": "attr/os/spmajor", "spminor": "attr/os/spminor",
		}),
		"PV_drivers_version": pick(tree, map[string]string{
			"major": "attr/PVAddons/MajorVersion", "minor": "attr/PVAddons/MinorVersion", "micro": "attr/PVAddons/MicroVersion",
			"build": "attr/PVAddons/BuildVersion", "application": "attr/PVAddons/Application",
		}),
		"can_use_hotplug_vbd": hotplugState(tree, "feature/hotplug/vbd"),
		"can_use_hotplug_vif": hotplugState(tree, "feature/hotplug/vif"),
		"PV_drivers_detected": drivers, "PV_drivers_up_to_date": drivers,
	} {
		p.db.set(metrics, field, value)
	}
	if metrics.modified != before {
		p.db.set(metrics, "last_updated", now())
	}
}

// otherKeys are the direct children of control/, and what an agent says of itself under data/.
func otherKeys(tree map[string]string) map[string]string {
	out := map[string]string{}
	for key, value := range tree {
		if name, ok := strings.CutPrefix(key, "control/"); ok && !strings.Contains(name, "/") {
			out[name] = value
		}
	}
	if at, ok := tree["data/ts"]; ok {
		out["data-ts"] = at
	}
	if reason, ok := tree["data/cant_suspend_reason"]; ok && tree["control/feature-suspend"] != "" {
		out["data-cant-suspend-reason"] = reason
	}
	return out
}

// legacyKey is where agents of old put an address. What the interface is called does not matter, its number does.
var legacyKey = regexp.MustCompile(`^attr/(?:eth|xenbr|eno|ens|emp|enx)(\d+)/(?:ip|ipv6/(\d+)/addr)$`)

// addresses are those of a guest's interfaces. An index that is no number spoils all addresses of its interface; the keys of
// old count only where there are none of today's.
func addresses(tree map[string]string) map[string]string {
	out, spoilt := map[string]string{}, map[string]bool{}
	put := func(device, family, index, value string) {
		out[device+"/"+family+"/"+index] = value
		if family == "ipv4" && index == "0" {
			out[device+"/ip"] = value
		}
	}
	for key, value := range tree {
		if part := strings.Split(key, "/"); len(part) == 5 && part[0] == "attr" && part[1] == "vif" && value != "" {
			if _, err := strconv.ParseUint(part[4], 10, 16); err != nil {
				spoilt[part[2]] = true
			}
			put(part[2], part[3], part[4], value)
		}
	}
	today := len(out) > 0
	maps.DeleteFunc(out, func(key, _ string) bool {
		device, _, _ := strings.Cut(key, "/")
		return spoilt[device]
	})
	for key, value := range tree {
		if m := legacyKey.FindStringSubmatch(key); m != nil && !today && value != "" {
			if m[2] == "" {
				put(m[1], "ipv4", "0", value)
			} else {
				put(m[1], "ipv6", m[2], value)
			}
		}
	}
	return out
}

func pick(tree, keys map[string]string) map[string]string {
	out := map[string]string{}
	for name, key := range keys {
		if value, ok := tree[key]; ok {
			out[name] = value
		}
	}
	return out
}

func hotplugState(tree map[string]string, key string) string {
	switch tree[key] {
	case "1":
		return "yes"
	case "0":
		return "no"
	default:
		return "unspecified"
	}
}
