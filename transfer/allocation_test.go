package transfer_test

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

// workload is what a transfer has to do.
type workload struct {
	name    string
	target  func(source []byte) []byte
	trusted bool
}

func empty(source []byte) []byte { return make([]byte, len(source)) }
func equal(source []byte) []byte { return source }

// changed differs in one block of each extent.
func changed(source []byte) []byte {
	target := append([]byte(nil), source...)
	for at := 0; at < len(target); at += manifest.ExtentSize {
		target[at]++
	}
	return target
}

var (
	full      = workload{"full", empty, false}
	unchanged = workload{"unchanged", equal, false}
	trusted   = workload{"unchanged, trusted", equal, true}
)

// run moves a disk in memory, and returns how often and how much both ends allocated meanwhile. What fills the disks does not count.
func (w workload) run(t testing.TB, near, far transfer.Conn, source []byte, tuning transfer.Tuning, timed func(run func())) (count, bytes uint64) {
	t.Helper()
	target := w.target(source)
	src, dst := memory(t, source), memory(t, target)
	var baseline transfer.Baseline
	if w.trusted {
		baseline = knownOf(target)
	}
	var before, after runtime.MemStats
	timed(func() {
		runtime.ReadMemStats(&before)
		transferOnce(t, near, far, src, dst, baseline, tuning)
		runtime.ReadMemStats(&after)
	})
	return after.Mallocs - before.Mallocs, after.TotalAlloc - before.TotalAlloc
}

// Nothing is allocated for each block: what a larger disk takes more than a smaller one is a few objects for each extent of 64 blocks, among
// them its digests, which have 32 bytes a block at either end, and never a buffer. The ends are joined without TLS: that of Go allocates a
// small object for each record of 16 KiB that it reads.
func TestAllocationsPerBlock(t *testing.T) {
	const (
		few, many = 4, 20 // extents; the buffers are those of three
		blocks    = (many - few) * manifest.BlocksPerExtent
		maxCount  = 1.5                        // it is a third to nine tenths; one more for each block would exceed this
		maxBytes  = manifest.BlockSize * 7 / 8 // the pools of the frames fill by chance, and the race detector has them forget a quarter
	)
	// A collection empties the pools, and its time is not ours to choose.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	source := random(many*manifest.ExtentSize, 1)
	for _, w := range []workload{full, unchanged, trusted} {
		t.Run(w.name, func(t *testing.T) {
			measure := func(source []byte) (count, bytes uint64) {
				near, far, err := netproto.Pipe(netproto.Options{Window: netproto.MinWindow})
				if err != nil {
					t.Fatal(err)
				}
				return w.run(t, near, far, source, transfer.Tuning{Memory: transfer.MinMemory}, func(run func()) { run() })
			}
			count0, bytes0 := measure(source[:few*manifest.ExtentSize])
			count, bytes := measure(source)
			perBlock, bytesPerBlock := (float64(count)-float64(count0))/blocks, (float64(bytes)-float64(bytes0))/blocks
			t.Logf("%.3f allocations and %.0f bytes a block", perBlock, bytesPerBlock)
			if perBlock > maxCount || bytesPerBlock > maxBytes {
				t.Errorf("%.3f allocations and %.0f bytes a block, more than %v and %v", perBlock, bytesPerBlock, maxCount, maxBytes)
			}
		})
	}
}
