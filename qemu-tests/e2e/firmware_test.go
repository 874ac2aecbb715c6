//go:build e2e

package e2e_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/qemu"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// The image's own disk boots on both firmwares, whatever the clock says, and the machine powers off when it is asked to.
func TestFirmware(t *testing.T) {
	for firmware, c := range map[string]struct {
		address string
		gateway string
		clock   time.Time
	}{
		"bios": {"10.77.0.20/24", "10.77.0.1", time.Date(2003, 2, 1, 0, 0, 0, 0, time.UTC)},
		"uefi": {"10.77.0.21/24", "10.77.0.250", time.Date(2044, 2, 1, 0, 0, 0, 0, time.UTC)}, // nobody is this gateway
	} {
		t.Run(firmware, func(t *testing.T) {
			t.Parallel()
			l := network(t)
			a := boot(t, qemu.Options{Network: l.Socket(), Clock: c.clock}, c.address, func(m *xapisim.Machine) {
				m.Firmware = firmware
				m.Data[control.InputPrefix+control.InputGateway] = c.gateway
			})
			client := a.meet(l)
			if got, want := client.Address(), netip.MustParsePrefix(c.address).Addr().String()+":7811"; got != want {
				t.Errorf("the delegate listens on %s, not %s", got, want)
			}
			a.says("ready")
			if firmware == "uefi" {
				a.says("gateway 10.77.0.250")
			}
			if err := a.Shutdown(limit(t, time.Minute)); err != nil {
				t.Fatal(err)
			}
			a.awaitEnd(time.Minute)
			if cause := a.await(control.CauseKey, time.Second); cause != "the pool asked for poweroff" {
				t.Errorf("cause %q", cause)
			}
			// The console of a boot that went well, to show.
			to := filepath.Join(consoles, firmware)
			if err := os.MkdirAll(to, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(to, "console.log"), []byte(a.console()), 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}
