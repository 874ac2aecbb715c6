package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// Files of a machine's folder.
const (
	configurationFile = "guest.json"
	variablesFile     = "OVMF_VARS.fd"
	consoleFile       = "console.log"
	portFile          = "port.log"
	complaintsFile    = "qemu.log"
)

// Descriptors that QEMU inherits.
const qmpDescriptor, portDescriptor = 3, 4

const (
	configurationItem = "opt/org.understudy/guest"
	portName          = "org.understudy.guest"
)

// slots is the id of the bridge that disks are plugged into while the machine runs; it has room for 31.
const slots = "slots"

// processor has all that QEMU can emulate, but AVX2: BLAKE3 with it is twice as slow there as with SSE 4.1, and most of what a delegate
// does is to hash.
const processor = "max,avx2=off"

// arguments makes QEMU's command line and tells which disks it holds. The machine is a 'q35', whose root bus takes nothing while it
// runs, hence the bridge. (An emulated 'pc' has its interrupt routing computed by a method of its ACPI, for a fifth to half a second a
// device.)
func (o Options) arguments(dir string, m xapisim.Machine) ([]string, map[string]attached, error) {
	a := []string{
		"-name", m.Name, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-vga", "none",
		"-machine", "q35", "-accel", o.Accelerator, "-cpu", processor, "-device", "pcie-pci-bridge,id=" + slots,
		"-smp", strconv.FormatInt(max(m.VCPUs, 1), 10), "-m", strconv.FormatInt(m.Memory>>20, 10) + "M",
		"-serial", "file:" + escape(filepath.Join(dir, consoleFile)),
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", qmpDescriptor), "-mon", "chardev=qmp,mode=control",
		"-chardev", fmt.Sprintf("socket,id=port,fd=%d", portDescriptor),
	}
	if !o.Mute {
		a = append(a, "-fw_cfg", "name="+configurationItem+",file="+escape(filepath.Join(dir, configurationFile)),
			"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port,name="+portName)
	}
	if !o.Clock.IsZero() {
		a = append(a, "-rtc", "base="+o.Clock.UTC().Format("2006-01-02T15:04:05"))
	}
	switch {
	case o.Direct != nil:
		a = append(a, "-kernel", o.Direct.Kernel, "-initrd", o.Direct.Initramfs, "-append", o.Direct.CommandLine)
	case m.Firmware == "uefi":
		a = append(a, "-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+escape(o.FirmwareCode),
			"-drive", "if=pflash,unit=1,format=raw,file="+escape(filepath.Join(dir, variablesFile)))
	case m.Firmware != "bios" && m.Firmware != "":
		return nil, nil, fmt.Errorf("firmware %q: it is bios or uefi", m.Firmware)
	}
	a = append(a, o.network(m)...)
	disks := map[string]attached{}
	for i, disk := range m.Disks {
		if _, taken := disks[disk.UserDevice]; taken {
			return nil, nil, fmt.Errorf("two disks have the number %s", disk.UserDevice)
		}
		node, device, err := describe(disk, disk.UserDevice, 512) // firmware boots from blocks of this size alone
		if err != nil {
			return nil, nil, err
		}
		device["bootindex"] = i + 1 // 0 is that of Options.Direct
		nodeText, err := json.Marshal(node)
		if err != nil {
			return nil, nil, err
		}
		deviceText, err := json.Marshal(device)
		if err != nil {
			return nil, nil, err
		}
		a = append(a, "-blockdev", string(nodeText), "-device", string(deviceText))
		disks[disk.UserDevice] = attached{id: name(disk.UserDevice, disk.UserDevice)}
	}
	return a, disks, nil
}

// network describes the machine's interfaces.
func (o Options) network(m xapisim.Machine) (a []string) {
	for _, vif := range m.VIFs {
		id := "vif" + vif.Device
		device := "virtio-net-pci,romfile=,netdev=" + id + ",mac=" + vif.MAC // no ROM: nothing boots from the network
		if vif.MTU > 0 {
			device += ",host_mtu=" + strconv.FormatInt(vif.MTU, 10)
		}
		backend := "hubport,hubid=" + vif.Device + ",id=" + id // a hub of its own, alone
		if o.Network != "" {
			backend = "stream,server=off,addr.type=unix,addr.path=" + escape(o.Network) + ",id=" + id
		}
		a = append(a, "-netdev", backend, "-device", device)
	}
	return a
}

// name is the id of a disk's device and block node. The serial of the device says the number alone.
func name(userDevice, unique string) string { return "vbd-" + userDevice + "." + unique }

// describe makes the arguments of blockdev-add and device_add.
func describe(disk xapisim.Disk, unique string, blockSize int) (node, device map[string]any, err error) {
	if _, err := strconv.ParseUint(disk.UserDevice, 10, 16); err != nil {
		return nil, nil, fmt.Errorf("disk number %q: %w", disk.UserDevice, err)
	}
	direct, err := directIO(disk)
	if err != nil {
		return nil, nil, err
	}
	id := name(disk.UserDevice, unique)
	node = map[string]any{
		"driver": "raw", "node-name": id, "read-only": disk.ReadOnly,
		"file": map[string]any{"driver": "file", "filename": disk.Path, "aio": "threads", "cache": map[string]any{"direct": direct}},
	}
	device = map[string]any{
		"driver": "virtio-blk-pci", "drive": id, "id": id, "serial": "vbd-" + disk.UserDevice,
		"logical_block_size": blockSize, "physical_block_size": blockSize,
		"discard": false, "write-zeroes": false, // as Xen's back ends
	}
	return node, device, nil
}

// directAlignment is what the size of a file must be a multiple of, in bytes, for QEMU's direct I/O on any disk.
const directAlignment = 4096

// directIO tells whether a disk can be opened with direct I/O: its size and its file system must be right for that.
func directIO(disk xapisim.Disk) (bool, error) {
	f, err := os.OpenFile(disk.Path, os.O_RDONLY|unix.O_DIRECT, 0)
	if errors.Is(err, syscall.EINVAL) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	return err == nil && info.Size()%directAlignment == 0, err
}

// escape makes a value of QEMU's comma-separated options.
func escape(value string) string {
	var out []byte
	for i := range len(value) {
		if out = append(out, value[i]); value[i] == ',' {
			out = append(out, ',')
		}
	}
	return string(out)
}
