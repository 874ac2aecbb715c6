package blockiotest

import (
	"testing"

	"github.com/understudy-dr/understudy/blockio"
)

// testAllocation writes and zeroes here and there: whatever a device does not tell of as allocated must read as zeroes, before and
// after a flush.
func testAllocation(t *testing.T, newDevice maker) {
	const size = 40*blockio.AllocationUnit + 300
	device := newDevice.open(t, size)
	want := make([]byte, size)
	check := func() {
		t.Helper()
		allocated, err := blockio.Allocation(device)
		if err != nil {
			t.Fatal(err)
		}
		if allocated.Size() != size {
			t.Fatalf("the map is of %d bytes, the device has %d", allocated.Size(), size)
		}
		got := make([]byte, size)
		if _, err := device.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		for off := range got {
			if got[off] != want[off] || want[off] != 0 && !allocated.Marked(int64(off), 1) {
				t.Fatalf("byte %d: read %d, want %d, allocated %v", off, got[off], want[off], allocated.Marked(int64(off), 1))
			}
		}
	}
	check()
	for i, off := range []int64{5, 3*blockio.AllocationUnit - 1, 9 * blockio.AllocationUnit, 30*blockio.AllocationUnit + 77, size - 1} {
		p := noise(1+i*20000, uint64(i))
		p = p[:min(int64(len(p)), size-off)]
		write(t, device, p, off)
		copy(want[off:], p)
		check()
	}
	if err := device.WriteZeroes(2*blockio.AllocationUnit, 8*blockio.AllocationUnit); err != nil {
		t.Fatal(err)
	}
	clear(want[2*blockio.AllocationUnit : 10*blockio.AllocationUnit])
	check()
	if err := device.Flush(); err != nil {
		t.Fatal(err)
	}
	check()
}
