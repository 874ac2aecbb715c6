package main

import (
	"strings"
	"unicode"
)

// classes are those that have a record, with what each is. An event's shape depends on what it is about: it is written by hand.
var classes = []struct{ name, doc string }{
	{"VM", "is a virtual machine, a template, a snapshot or a control domain."},
	{"VM_metrics", "holds what changes each time a VM runs."},
	{"VM_guest_metrics", "is what a guest says of itself: untrusted, and kept when the VM stops (xapi-facts §7.4)."},
	{"VIF", "is a network interface of a VM."},
	{"VTPM", "is the trusted platform module of a VM."},
	{"VBD", "joins a VM with a disk."},
	{"VDI", "is a disk, a snapshot of one, or an internal node of a chain (Managed false)."},
	{"SR", "is a storage repository."},
	{"PBD", "joins a host with an SR."},
	{"pool", "is the one record of a pool."},
	{"host", "is a member of a pool."},
	{"host_metrics", "says whether a host is alive. Free memory is told by host.compute_free_memory."},
	{"network", "is a network of a pool."},
	{"PIF", "is a network interface of a host."},
	{"task", "is an operation in progress or finished."},
	{"session", "is a login."},
	{"Certificate", "is what a host or the pool knows of an X.509 certificate."},
	{"message", "is an alert that the pool keeps for its administrator."},
}

// left are fields that no record has: texts of tens of kilobytes a VM which the product does not read.
var left = map[string]bool{"VM.snapshot_metadata": true, "VM.last_booted_record": true}

// oldest are the releases before 7.0: what they had, every host has.
var oldest = map[string]bool{
	"rio": true, "miami": true, "symc": true, "orlando": true, "orlando-update-1": true, "george": true, "midnight-ride": true,
	"cowley": true, "boston": true, "tampa": true, "clearwater": true, "vgpu-tech-preview": true, "vgpu-productisation": true,
	"clearwater-felton": true, "clearwater-whetstone": true, "augusta": true, "creedence": true, "cream": true, "indigo": true,
	"dundee": true,
}

// notes are facts that the data model does not tell.
var notes = map[string]string{
	"VM.allowed_operations":                "a hint that may lag",
	"VM.current_operations":                "by task",
	"VM.blocked_operations":                "the reasons",
	"VM.is_a_template":                     "true for snapshots too",
	"VM.guest_metrics":                     "another one after each start",
	"VM.affinity":                          "may dangle",
	"VM.domain_type":                       `"" on hosts before 7.5`,
	"VM.start_delay":                       "seconds",
	"VM.shutdown_delay":                    "seconds",
	"VM.memory_static_max":                 "bytes, as all sizes",
	"VM_guest_metrics.networks":            `"0/ip", "0/ipv4/0", "0/ipv6/0" → address`,
	"VIF.device":                           "a number in decimal",
	"VBD.VDI":                              "null when Empty",
	"VBD.userdevice":                       "position, a number in decimal",
	"VBD.device":                           "name in the guest, a hint",
	"VDI.virtual_size":                     "bytes; what the guest sees, rounded up by the SR",
	"VDI.physical_utilisation":             "bytes; may lag until a scan",
	"VDI.cbt_enabled":                      "false on hosts before 7.3",
	"VDI.sm_config":                        "the driver's own; never copied to another VDI",
	"SR.shared":                            "usable on a host only with that host's PBD plugged",
	"SR.physical_size":                     "bytes; -1 or stale until a scan (xapi-facts §2, §6.7)",
	"SR.physical_utilisation":              "bytes; -1 or stale until a scan",
	"SR.virtual_allocation":                "bytes",
	"PBD.currently_attached":               "plugged",
	"pool.name_label":                      "often empty for a single host",
	"pool.default_SR":                      "may dangle",
	"pool.suspend_image_SR":                "may dangle",
	"pool.master":                          "the coordinator",
	"host.address":                         "of its management interface, no port",
	"host.enabled":                         "false: maintenance",
	"PIF.management":                       "carries the host's own address",
	"task.status":                          "written last",
	"task.progress":                        "0 to 1",
	"task.result":                          "an XML-RPC value",
	"task.error_info":                      "code and parameters",
	"session.originator":                   "the program that logged in",
	"Certificate.fingerprint":              "SHA-256, as OpenSSL prints it",
	"Certificate.fingerprint_sha256":       "as OpenSSL prints it",
	"message.obj_uuid":                     "what it is about",
	"VTPM.is_unique":                       "its content must not be in two VMs at once",
	"VM.snapshot_time":                     "UTC, as all times",
	"VM.is_control_domain":                 "a domain 0",
	"host.API_version_minor":               "tells the release (xapi-facts, release map)",
	"VM_metrics.start_time":                "of the last start",
	"VM_guest_metrics.last_updated":        "by the host's clock",
	"VM_guest_metrics.can_use_hotplug_vbd": "evidence of PV drivers",
}

// prefixes are what the constants of an enumeration begin with, where that is not the name of its type.
var prefixes = map[string]string{"vm_power_state": "", "vbd_type": "Type", "vbd_mode": "Mode", "task_status_type": "Task"}

// enumName is the Go type of an enumeration.
func enumName(name string) string {
	if typ, ok := map[string]string{"task_status_type": "TaskStatus", "tristate_type": "Tristate", "cls": "MessageClass"}[name]; ok {
		return typ
	}
	if stem, ok := strings.CutSuffix(name, "_operations"); ok { // a value is one of them
		return exported(stem) + "Operation"
	}
	return exported(name)
}

// words are the spellings of those that are not just written with a capital.
var words = map[string]string{
	"api": "API", "bios": "BIOS", "cbt": "CBT", "cpu": "CPU", "cpus": "CPUs", "dns": "DNS", "domid": "DomainID", "ha": "HA", "https": "HTTPS",
	"hvm": "HVM", "id": "ID", "igmp": "IGMP", "ip": "IP", "ips": "IPs", "ipv4": "IPv4", "ipv6": "IPv6", "iso": "ISO", "mac": "MAC", "netbios": "NetBIOS",
	"nomigrate": "NoMigrate", "ntp": "NTP", "numa": "NUMA", "os": "OS", "pif": "PIF", "pv": "PV", "pvh": "PVH", "qos": "QoS", "ram": "RAM", "rbac": "RBAC",
	"sha1": "SHA1", "sha256": "SHA256", "sid": "SID", "sm": "SM", "sr": "SR", "ssh": "SSH", "ssl": "SSL", "tls": "TLS", "uefi": "UEFI", "url": "URL", "userdevice": "UserDevice", "uuid": "UUID",
	"vbd": "VBD", "vdi": "VDI", "vif": "VIF", "vm": "VM", "vms": "VMs", "vswitch": "VSwitch", "vtpm": "VTPM", "vusb": "VUSB", "wlb": "WLB",
}

// exported is the Go name of a name of the data model: words joined, each with a capital, abbreviations as they are usually
// written.
func exported(name string) string {
	var out strings.Builder
	for word := range strings.FieldsFuncSeq(name, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		if known, ok := words[word]; ok {
			word = known
		}
		out.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return out.String()
}
