package inventory

import (
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// thinTypes are the SR types that allocate as a disk is written (xapi-facts §6.7). What is not listed counts as
// thick, which asks for more room and never for too little.
var thinTypes = map[string]bool{"ext": true, "nfs": true, "smb": true, "file": true, "xfs": true, "zfs": true}

// Thin reports whether an SR allocates space only for what is written.
func Thin(sr xapi.SR) bool { return thinTypes[sr.Type] }

// fileTypes are the types whose new disk is a VHD or qcow2 file: its blocks read as zeroes until written.
var fileTypes = map[string]bool{"ext": true, "nfs": true, "smb": true, "file": true}

// ReadsAsZero reports whether a disk just created on an SR is known to read as zeroes, because it is in a format
// that keeps a map of what was written (xapi-facts §8.2). LVM SRs make VHDs only when sm_config says so; older
// ones make raw volumes, which show what was there before. Where it is not known, the answer is no, and the disk
// is compared like an old one.
func ReadsAsZero(sr xapi.SR) bool {
	if strings.HasPrefix(sr.Type, "lvm") {
		return sr.SMConfig["use_vhd"] == "true"
	}
	return fileTypes[sr.Type]
}

// vhdTypes are the types whose disks are VHDs unless something speaks against it.
var vhdTypes = map[string]bool{
	"ext": true, "nfs": true, "smb": true, "file": true, "xfs": true, "zfs": true, "lvm": true, "lvmoiscsi": true, "lvmohba": true, "lvmofcoe": true,
}

const (
	// maxVHD is the largest virtual size of a VHD in bytes (xapi-facts §6.6).
	maxVHD = 2040 << 30
	// formatsKey is the key of PBD.device_config by which newer storage drivers are told to make qcow2 disks.
	formatsKey = "preferred-image-formats"
)

// MaxDiskSize is the largest disk, in bytes, that an SR can hold by its format; 0 when no limit is known. That it holds a larger
// one, or was told to make qcow2 disks, speaks for another format than VHD.
func (p *Pool) MaxDiskSize(ref xapi.Ref) int64 {
	if !vhdTypes[p.SRs[ref].Type] {
		return 0
	}
	for _, pbd := range p.PBDs {
		if pbd.SR == ref && strings.Contains(pbd.DeviceConfig[formatsKey], "qcow2") {
			return 0
		}
	}
	for _, vdi := range p.VDIs {
		if vdi.SR == ref && vdi.VirtualSize > maxVHD {
			return 0
		}
	}
	return maxVHD
}

// FreeSpace is the room left on an SR in bytes. known is false when the SR does not say: introduced but not yet
// scanned, or a driver without numbers (xapi-facts §2).
func FreeSpace(sr xapi.SR) (free int64, known bool) {
	if sr.PhysicalSize <= 0 || sr.PhysicalUtilisation < 0 {
		return 0, false
	}
	return max(sr.PhysicalSize-sr.PhysicalUtilisation, 0), true
}
