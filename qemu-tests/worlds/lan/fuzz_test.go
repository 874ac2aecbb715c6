package lan_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/lan"
)

func FuzzFrame(f *testing.F) {
	f.Add(frame(a, b, "payload"))
	f.Add([]byte{0, 0, 0, 13})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0})
	f.Fuzz(func(t *testing.T, input []byte) {
		reader := bytes.NewReader(input)
		for {
			got, err := lan.ReadFrame(reader)
			if err != nil {
				return
			}
			if len(got) < 18 || int(binary.BigEndian.Uint32(got)) != len(got)-4 || !bytes.Contains(input, got) {
				t.Fatalf("%x out of %x", got, input)
			}
		}
	})
}
