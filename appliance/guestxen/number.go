package guestxen

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// How XenStore's number of a block device, device/vbd/<id>, follows from VBD.userdevice (xapi-facts §8.1): Linux' device numbers.
const (
	xvdMajor    = 202
	extended    = 1 << 28 // marks ids of disks that have no such device number
	firstExtend = 16      // the first VBD number that has an extended id
	maxNumber   = 255
)

// idePositions are the ids of VBDs 0 to 3 of an HVM guest, which its emulated IDE controllers have too: hda to hdd.
var idePositions = [...]uint32{3 << 8, 3<<8 | 64, 22 << 8, 22<<8 | 64}

// vbdNumber returns the VBD's number for an id; false for partitions, for other kinds of disk and for what is no id.
func vbdNumber(id uint32) (number int, ok bool) {
	for number, ide := range idePositions {
		if id == ide {
			return number, true
		}
	}
	switch {
	case id >= extended:
		number = int(id-extended) >> 8
		return number, id&0xff == 0 && number >= firstExtend && number <= maxNumber
	case id>>8 == xvdMajor:
		return int(id&0xff) >> 4, id&0xf == 0
	default:
		return 0, false
	}
}

// number tells a disk that the pool gave by its node in XenStore, "device/vbd/<id>".
func number(dir string) (int, bool) {
	node, err := os.ReadFile(filepath.Join(dir, "device", "nodename"))
	if err != nil {
		return 0, false // no disk of Xen's front end
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(string(node)), "device/vbd/")
	id, err := strconv.ParseUint(text, 10, 32)
	if !ok || err != nil || strconv.FormatUint(id, 10) != text {
		return 0, false
	}
	return vbdNumber(uint32(id))
}
