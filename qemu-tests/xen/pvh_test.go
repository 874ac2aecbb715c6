//go:build xen

package xen_test

import (
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen"
)

// pvhAttempts: a PVH guest dies now and then of the emulation itself, PV guests do not.
const pvhAttempts = 2

// One short life of a PVH guest.
func TestPVH(t *testing.T) {
	s := newSite(t, newStore(t), "pvh", xen.PVH)
	for attempt := 1; ; attempt++ {
		err := cycle(t, s)
		if err == nil {
			return
		}
		if attempt == pvhAttempts {
			t.Fatal(err)
		}
		t.Logf("attempt %d: %v", attempt, err)
	}
}
