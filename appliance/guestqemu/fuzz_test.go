package guestqemu_test

import (
	"errors"
	"testing"

	"github.com/understudy-dr/understudy/appliance/guestqemu"
)

// Whatever comes over the port is refused as such, or a message that survives encoding.
func FuzzMessage(f *testing.F) {
	for _, line := range []string{
		`{"write":{"control/shutdown":"poweroff"}}`, `{"remove":["a","b"]}`, `{"write":null}`, `{"write":{"a":null}}`,
		`{"WRITE":{"a":"\ud800"}}`, `{"remove":[""]}`, ``, `[]`, `{"write":{"a":"` + "\xff" + `"}}`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		again, same, err := guestqemu.Reencode(line)
		if errors.Is(err, guestqemu.ErrProtocol) && again == nil {
			return
		}
		if err != nil && len(line) < 1000 || err == nil && !same {
			t.Errorf("%q became %q, the same %v, %v", line, again, same, err)
		}
	})
}

func FuzzConfiguration(f *testing.F) {
	for _, data := range []string{`{}`, `null`, `{"vm":"/vm/1","unique-domain-id":"x"}`, `{"vm":null}`, `{"a":"1","a":"2"}`, "{}\x00", `"`} {
		f.Add([]byte(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		values, err := guestqemu.ParseConfiguration(data)
		if err != nil && !errors.Is(err, guestqemu.ErrProtocol) || err == nil && values == nil {
			t.Errorf("%q is %v, %v", data, values, err)
		}
	})
}
