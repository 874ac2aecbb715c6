package qemu_test

import (
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/qemu"
)

func FuzzLine(f *testing.F) {
	for _, line := range []string{
		`{"write":{"attr/PVAddons/MajorVersion":"8"}}`, `{"remove":["vm-data/a"]}`, `{"remove":["vm-data"]}`, `{"write":{"vm-data/a/b":""},"remove":["control/shutdown"]}`,
		`{"write":{"device/x":"1"}}`, `{}`, `null`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		keys, err := qemu.Hear(line)
		if err != nil && len(keys) != 2 {
			t.Fatalf("%q was refused, and changed %v: %v", line, keys, err)
		}
		for key, value := range keys {
			if err := qemu.CheckEntry(key, value); err != nil {
				t.Fatalf("%q wrote %v", line, err)
			}
		}
	})
}
