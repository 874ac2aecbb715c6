package xapisim_test

import (
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// TestSystemCalls: what stands beside the data model needs no session, and is answered by every host.
func TestSystemCalls(t *testing.T) {
	pool := newPool(t, xapisim.Config{Hosts: 2})
	for n, address := range pool.Addresses() {
		c := dial(t, address, pool.Fingerprints()[n])
		methods, err := c.raw("system.listMethods")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"VM.get_all_records", "VM.start", "event.from", "session.login_with_password"} {
			if !slices.Contains(methods.([]any), any(want)) {
				t.Errorf("%s is not among the %d methods of host %d", want, len(methods.([]any)), n)
			}
		}
		if echo, err := c.raw("system.isAlive:abc", "still there"); err != nil || echo != "still there" {
			t.Errorf("host %d is alive: %v, %v", n, echo, err)
		}
		_, err = c.raw("system.levitate")
		if e, ok := err.(*apiError); !ok || e.code != "MESSAGE_METHOD_UNKNOWN" {
			t.Errorf("an unknown one gives %v", err)
		}
	}
}
