//go:build xenhvm

package xen_test

import (
	"path/filepath"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen"
)

// The image's own disk, booted as xapi boots it: an HVM guest by SeaBIOS and GRUB.
func TestHVM(t *testing.T) {
	s := newSite(t, newStore(t), "hvm", xen.HVM)
	must(t, cycle(t, s))
	guests, err := filepath.Glob(filepath.Join(shared.consoles, "*.*", "console.log"))
	must(t, err)
	for _, guest := range guests {
		// The first is what GRUB adds to the command line.
		console(t, guest, "BOOT_IMAGE=/vmlinuz", "max_ring_page_order=3", "power off")
	}
}
