package xapisim

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// build fills the database with what a freshly installed pool has.
func (p *Pool) build() error {
	pool := p.db.insert("pool", map[string]any{
		"name_label": p.config.Name, "tls_verification_enabled": true,
		"other_config": map[string]string{"memory-ratio-hvm": "0.25", "memory-ratio-pv": "0.25"},
	})
	for _, driver := range p.drivers() {
		p.buildDriver(driver)
	}
	for n, h := range p.hosts {
		h.ref = p.buildHost(n, h).ref
	}
	p.db.set(pool, "master", p.coordinator.ref)
	if err := p.restrict(p.config.Restricted); err != nil {
		return err
	}
	for n, name := range p.config.Networks {
		p.buildNetwork(n, name)
	}
	for _, config := range p.config.SRs {
		sr, err := p.buildSR(config)
		if err != nil {
			return err
		}
		if config.Shared && pool.text("default_SR") == nullRef {
			p.db.set(pool, "default_SR", sr.ref)
		}
	}
	return nil
}

func (p *Pool) buildHost(n int, h *host) *object {
	name := p.config.Name + "-host" + strconv.Itoa(n)
	metrics := p.db.insert("host_metrics", map[string]any{
		"memory_total": p.config.HostMemory, "live": true, "last_updated": now(),
	})
	host := p.db.insert("host", map[string]any{
		"name_label": name, "name_description": "Default install", "hostname": name, "address": h.ip.String(),
		"other_config": map[string]string{"boot_time": fmt.Sprintf("%d.", time.Now().Unix())},
		"metrics":      metrics.ref, "enabled": true, "edition": "xcp-ng", "memory_overhead": int64(512 << 20),
		"API_version_major": int64(2), "API_version_minor": int64(21), "API_version_vendor": "XenSource",
		"software_version": map[string]string{
			"product_brand": "XCP-ng", "product_version": "8.3.0", "product_version_text": "8.3", "platform_name": "XCP",
			"platform_version": "3.4.0", "xapi": "26.17", "xapi_build": "26.17.0", "xen": "4.17.5-1", "hostname": name,
			"network_backend": "openvswitch", "db_schema": "5.909",
		},
		"capabilities": []string{"xen-3.0-x86_64", "hvm-3.0-x86_32", "hvm-3.0-x86_32p", "hvm-3.0-x86_64"},
		"cpu_info": map[string]string{
			"cpu_count": "8", "socket_count": "1", "vendor": "GenuineIntel", "speed": "2400.000", "modelname": "simulated",
		},
		"virtual_hardware_platform_versions": []any{int64(0), int64(1), int64(2)}, "https_only": true,
		"allowed_operations": []string{"vm_migrate", "provision", "vm_resume", "evacuate", "vm_start"},
	})
	p.db.insert("Certificate", map[string]any{
		"host": host.ref, "type": "host", "fingerprint": h.certificate.openSSL(), "fingerprint_sha256": h.certificate.openSSL(),
		"not_before": now().Add(-time.Hour), "not_after": now().AddDate(10, 0, 0),
	})
	dom0 := p.db.insert("VM", map[string]any{
		"name_label": "Control domain on host: " + name, "is_control_domain": true, "power_state": "Running", "domid": int64(0),
		"resident_on": host.ref, "affinity": host.ref, "memory_static_max": int64(1 << 30), "memory_static_min": int64(1 << 30),
		"memory_dynamic_max": int64(1 << 30), "memory_dynamic_min": int64(1 << 30), "VCPUs_max": int64(4), "VCPUs_at_startup": int64(4),
		"domain_type": "pv", "metrics": p.db.insert("VM_metrics", map[string]any{"start_time": now()}).ref,
	})
	p.db.set(host, "control_domain", dom0.ref)
	return host
}

// buildDriver makes the object of a storage driver.
func (p *Pool) buildDriver(driver string) {
	name := strings.ToUpper(driver)
	features := map[string]any{}
	for _, feature := range []string{
		"SR_PROBE", "SR_UPDATE", "VDI_ATTACH", "VDI_CLONE", "VDI_CREATE", "VDI_DELETE", "VDI_DETACH", "VDI_GENERATE_CONFIG",
		"VDI_INTRODUCE", "VDI_MIRROR", "VDI_RESIZE", "VDI_RESIZE_ONLINE", "VDI_SNAPSHOT", "VDI_UPDATE", "VDI_CONFIG_CBT",
	} {
		features[feature] = int64(1)
	}
	if driver == "iso" {
		features = map[string]any{"SR_ATTACH": int64(1), "SR_DETACH": int64(1), "SR_SCAN": int64(1), "VDI_ATTACH": int64(1), "VDI_DETACH": int64(1)}
	}
	p.db.insert("SM", map[string]any{
		"name_label": name, "name_description": "simulated " + name, "type": driver, "vendor": "simulated", "version": "1.0",
		"required_api_version": "1.0", "features": features, "capabilities": slices.Sorted(maps.Keys(features)),
		"driver_filename": "/opt/xensource/sm/" + name + "SR",
	})
}

func (p *Pool) buildNetwork(n int, name string) {
	network := p.db.insert("network", map[string]any{"name_label": name, "bridge": "xenbr" + strconv.Itoa(n)})
	for i, h := range p.hosts {
		values := map[string]any{
			"device": "eth" + strconv.Itoa(n), "network": network.ref, "host": h.ref, "MAC": macOf(h.ref, n),
			"MTU": int64(1500), "VLAN": int64(-1), "physical": true, "management": n == 0, "currently_attached": true,
		}
		if n == 0 {
			maps.Copy(values, map[string]any{"ip_configuration_mode": "Static", "IP": p.hosts[i].ip.String(), "netmask": "255.0.0.0"})
		}
		p.db.insert("PIF", values)
	}
}

func (p *Pool) buildSR(config SRConfig) (*object, error) {
	values := map[string]any{
		"name_label": config.Name, "type": config.Type, "content_type": "user", "shared": config.Shared,
		"physical_size": config.Capacity,
	}
	if config.Type == "iso" {
		values["content_type"] = "iso"
	}
	device := map[string]string{"device": "/dev/disk/by-id/" + config.Name}
	if config.Type == "nfs" {
		device = map[string]string{"server": "192.0.2.1", "serverpath": "/" + config.Name}
	}
	if config.Garbage {
		values["sm_config"] = map[string]string{"type": "raw"}
	}
	sr := p.db.insert("SR", values)
	p.garbage[sr.ref], p.capacities[sr.uuid()] = config.Garbage, config.Capacity
	if err := os.MkdirAll(p.srDir(sr), 0o755); err != nil {
		return nil, fmt.Errorf("SR %s: %w", config.Name, err)
	}
	for n, h := range p.hosts {
		if config.Shared || n == config.Host {
			p.db.insert("PBD", map[string]any{"host": h.ref, "SR": sr.ref, "device_config": device, "currently_attached": true})
		}
	}
	return sr, nil
}
