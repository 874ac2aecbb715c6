package qemu

import "github.com/understudy-dr/understudy/qemu-tests/xapisim"

// Hear is what a machine's tree makes of one line of its guest.
func Hear(line []byte) (keys map[string]string, err error) {
	t := newTree(xapisim.Machine{Data: map[string]string{"vm-data/a/b": "1", "vm-data/c": "2"}})
	m, err := decodeLine(line)
	if err == nil {
		err = t.apply(m)
	}
	return t.keys, err
}

// CheckEntry shows the limits of a key.
var CheckEntry = checkEntry
