package xva

import (
	"fmt"
	"io"
)

// The marks in the VM's other_config by which an appliance of ours is known; the XVA carries them so that the imported
// template has them from its first moment.
const (
	KeyKind    = "understudy:kind"
	KeyVersion = "understudy:version"
	// KindDelegateTemplate is the kind of all appliances that Write makes.
	KindDelegateTemplate = "delegate-template"
)

// Disk is an appliance's disk.
type Disk struct {
	Name, Description string
	Size              int64 // bytes, a multiple of 2 MiB (a VHD rounds up to that), up to 2040 GiB
	Content           io.ReaderAt
}

// Appliance is a VM with one disk, to be imported as a template: HVM, booted from its disk, without network interfaces.
type Appliance struct {
	Name, Description string
	Version           string            // stands in other_config under KeyVersion
	Memory            int64             // bytes, a multiple of 1 MiB; all four limits
	VCPUs             int               // 1 to 64
	Firmware          string            // "bios" or "uefi"; "" is "bios"
	Tags              []string          //
	OtherConfig       map[string]string // besides KeyKind and KeyVersion, which cannot be given here
	Disk              Disk
}

const (
	mib     = 1 << 20
	maxDisk = 2040 << 30 // the largest VHD (xapi-facts §6.6)
	nullRef = "OpaqueRef:NULL"
)

// ids of the objects in the file: of equal length, because readers sort the disks' by text (xapi-facts §10.2).
const (
	idVM  = "Ref:0000"
	idVBD = "Ref:0001"
	idSR  = "Ref:0002"
	idVDI = "Ref:0003"
)

func (a Appliance) complete() (Appliance, error) {
	if a.Firmware == "" {
		a.Firmware = "bios"
	}
	switch {
	case a.Name == "":
		return a, fmt.Errorf("xva: the appliance has no name")
	case a.Version == "":
		return a, fmt.Errorf("xva: appliance %s has no version: an imported template is known by it", a.Name)
	case a.Memory <= 0 || a.Memory%mib != 0:
		return a, fmt.Errorf("xva: appliance %s: %d bytes of memory: want a multiple of 1 MiB", a.Name, a.Memory)
	case a.VCPUs < 1 || a.VCPUs > 64:
		return a, fmt.Errorf("xva: appliance %s: %d virtual CPUs: want 1 to 64", a.Name, a.VCPUs)
	case a.Firmware != "bios" && a.Firmware != "uefi":
		return a, fmt.Errorf("xva: appliance %s: firmware %q: want bios or uefi", a.Name, a.Firmware)
	case a.Disk.Content == nil:
		return a, fmt.Errorf("xva: appliance %s has no disk", a.Name)
	case a.Disk.Size <= 0 || a.Disk.Size > maxDisk || a.Disk.Size%(2*mib) != 0:
		return a, fmt.Errorf("xva: appliance %s: a disk of %d bytes: want a multiple of 2 MiB up to 2040 GiB", a.Name, a.Disk.Size)
	}
	for _, key := range []string{KeyKind, KeyVersion} {
		if _, given := a.OtherConfig[key]; given {
			return a, fmt.Errorf("xva: appliance %s: other_config key %s is set by the writer", a.Name, key)
		}
	}
	return a, nil
}
