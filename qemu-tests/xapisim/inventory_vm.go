package xapisim

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"

	"github.com/understudy-dr/understudy/image/xva"
)

// VMConfig describes a VM that AddVM puts into a pool. Zero members take the defaults that stand beside them.
type VMConfig struct {
	Name        string
	Memory      int64  // 256 MiB, bytes
	VCPUs       int64  // 1
	Firmware    string // "bios"
	Disks       []DiskConfig
	Networks    []string // names; the first network of the pool. One VIF each.
	Tags        []string
	OtherConfig map[string]string
	Running     bool // started at once
	NoDrivers   bool // its guest has no PV drivers and no agent
}

// DiskConfig describes a disk of a VM, at the position of its place in the list.
type DiskConfig struct {
	Name  string // "<VM> <position>"
	Size  int64  // bytes, rounded up to 2 MiB; the size of From
	SR    string // name; the first SR
	From  string // a raw file that is the disk's content
	Adopt bool   // From is moved into the SR instead of being copied
}

// Added is what was put into a pool.
type Added struct {
	Ref, UUID string
	VDIs      []string // uuids, by position
}

// AddVM makes a VM with its disks, as an administrator would have done earlier.
func (p *Pool) AddVM(config VMConfig) (Added, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	added, err := p.addVM(config, map[string]any{"is_a_template": false})
	if err == nil && config.Running {
		_, err = p.do("VM", "start", added.Ref)
	}
	if err != nil {
		return Added{}, fmt.Errorf("xapisim: VM %s: %w", config.Name, errors.Join(err, p.discard(added)))
	}
	return added, nil
}

// discard takes back what was added so far.
func (p *Pool) discard(added Added) error {
	c := &call{Pool: p, ctx: p.ctx, client: p.ctx, task: newRef()}
	vm := p.db.find("VM", added.Ref)
	disks := p.db.refs(vm, "VBDs", "VBD")
	errs := []error{c.destroyVM(vm)}
	for _, vbd := range disks {
		errs = append(errs, c.destroyVDI(p.db.find("VDI", vbd.text("VDI"))))
	}
	return errors.Join(errs...)
}

// delegateDiskSize is the size of a delegate template's only disk.
const delegateDiskSize = 64 << 20

// AddDelegateTemplate makes the template that a delegate's image is imported as. VMs that boot from a copy of its disk
// are started in Config.World.
func (p *Pool) AddDelegateTemplate(sr, version string) (Added, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	added, err := p.addVM(VMConfig{
		Name: "Understudy delegate " + version, Memory: 256 << 20, Disks: []DiskConfig{{Name: "delegate", Size: delegateDiskSize, SR: sr}},
		OtherConfig: map[string]string{xva.KeyKind: xva.KindDelegateTemplate, xva.KeyVersion: version},
	}, map[string]any{"is_a_template": true, "has_vendor_device": false})
	if err != nil {
		return Added{}, fmt.Errorf("xapisim: delegate template: %w", errors.Join(err, p.discard(added)))
	}
	p.noteDelegate(p.db.find("VM", added.Ref))
	return added, nil
}

func (p *Pool) addVM(config VMConfig, more map[string]any) (Added, error) {
	firmware := cmp.Or(config.Firmware, "bios")
	memory, vcpus := cmp.Or(config.Memory, 256<<20), cmp.Or(config.VCPUs, 1)
	tags := append([]string{}, config.Tags...)
	otherConfig := map[string]string{}
	maps.Copy(otherConfig, config.OtherConfig)
	values := map[string]any{
		"name_label": config.Name, "user_version": int64(1), "tags": tags, "other_config": otherConfig,
		"memory_static_max": memory, "memory_dynamic_max": memory, "memory_dynamic_min": memory, "memory_static_min": memory,
		"VCPUs_max": vcpus, "VCPUs_at_startup": vcpus, "HVM_boot_policy": "BIOS order", "domain_type": "hvm",
		"HVM_boot_params": map[string]string{"order": "cd", "firmware": firmware},
		"platform": map[string]string{
			"acpi": "1", "apic": "true", "pae": "true", "nx": "true", "viridian": "true", "timeoffset": "0", "hpet": "true",
			"device-model": "qemu-upstream-" + map[string]string{"uefi": "uefi", "bios": "compat"}[firmware],
		},
		"actions_after_shutdown": "destroy", "actions_after_reboot": "restart", "actions_after_crash": "restart",
		"hardware_platform_version": int64(2), "generation_id": "",
	}
	maps.Copy(values, more)
	vm := p.newVM(values)
	p.driverless[vm.uuid()] = config.NoDrivers
	added := Added{Ref: vm.ref, UUID: vm.uuid()}
	for n, disk := range config.Disks {
		vdi, err := p.addDisk(disk, cmp.Or(disk.Name, config.Name+" "+strconv.Itoa(n)))
		if err != nil {
			return added, fmt.Errorf("disk %d: %w", n, err)
		}
		added.VDIs = append(added.VDIs, vdi.uuid())
		p.db.insert("VBD", map[string]any{
			"VM": vm.ref, "VDI": vdi.ref, "userdevice": strconv.Itoa(n), "bootable": n == 0, "mode": "RW", "type": "Disk",
			"other_config": map[string]string{"owner": ""},
		})
	}
	return added, p.addVIFs(vm, config.Networks)
}

func (p *Pool) addDisk(config DiskConfig, name string) (*object, error) {
	var sr *object
	for _, candidate := range p.db.all("SR") {
		if sr == nil && (config.SR == "" || candidate.text("name_label") == config.SR) {
			sr = candidate
		}
	}
	if sr == nil {
		return nil, fmt.Errorf("no SR %q", config.SR)
	}
	size := config.Size
	if config.From != "" {
		info, err := os.Stat(config.From)
		if err != nil {
			return nil, err
		}
		if size = max(size, info.Size()); config.Size != 0 && config.Size < info.Size() {
			return nil, fmt.Errorf("%s has %d bytes, more than the disk's %d", config.From, info.Size(), config.Size)
		}
	}
	size, err := roundSize(size)
	if err != nil {
		return nil, err
	}
	vdi, err := p.newVDI(sr, size, map[string]any{"name_label": name, "type": "user"})
	if err != nil {
		return nil, err
	}
	path := p.volumePath(vdi)
	switch {
	case config.From == "":
		err = createVolume(p.ctx, path, size, p.noisy(sr))
	case config.Adopt:
		err = errors.Join(os.Rename(config.From, path), os.Truncate(path, size))
	default:
		err = copyVolume(p.ctx, config.From, path, size, nil)
	}
	if err != nil {
		p.db.remove(vdi)
		return nil, errors.Join(err, remove(path))
	}
	return vdi, p.refreshSizes(sr)
}

func (p *Pool) addVIFs(vm *object, names []string) error {
	if len(names) == 0 {
		names = p.config.Networks[:1]
	}
	for n, name := range names {
		var network *object
		for _, candidate := range p.db.all("network") {
			if candidate.text("name_label") == name {
				network = candidate
			}
		}
		if network == nil {
			return fmt.Errorf("no network %q", name)
		}
		device := strconv.Itoa(n)
		p.db.insert("VIF", map[string]any{
			"VM": vm.ref, "network": network.ref, "device": device, "MTU": int64(1500), "MAC_autogenerated": true,
			"MAC": macOf(vm.table("other_config")["mac_seed"], n),
		})
	}
	return nil
}
