package transfer_test

import (
	"sync"
	"testing"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

// BenchmarkTransfer is for profiles: disks in memory, TLS on loopback. Its allocations are those of both ends without connecting; among
// them is what a transfer takes once, whatever the disk's size.
func BenchmarkTransfer(b *testing.B) {
	const extents = 64
	source := random(extents*manifest.ExtentSize, 1)
	for _, w := range []workload{full, {"full, trusted", empty, true}, unchanged, trusted, {"changed, trusted", changed, true}} {
		b.Run(w.name, func(b *testing.B) {
			b.SetBytes(int64(len(source)))
			var count, bytes uint64
			for b.Loop() {
				b.StopTimer()
				near, far := loopback(b, netproto.Options{})
				c, n := w.run(b, near, far, source, transfer.Tuning{}, func(run func()) {
					b.StartTimer()
					run()
					b.StopTimer()
				})
				count, bytes = count+c, bytes+n
				b.StartTimer()
			}
			blocks := float64(b.N) * extents * manifest.BlocksPerExtent
			b.ReportMetric(float64(count)/blocks, "allocs/block")
			b.ReportMetric(float64(bytes)/blocks, "B/block")
		})
	}
}

// transferOnce brings the target to the source's content; it is trusted when there is a baseline.
func transferOnce(t testing.TB, near, far transfer.Conn, src, dst blockio.Device, baseline transfer.Baseline, tuning transfer.Tuning) {
	t.Helper()
	var both sync.WaitGroup
	var sendErr, recvErr error
	both.Go(func() {
		var result transfer.SendResult
		result, sendErr = transfer.Send(t.Context(), transfer.SendSpec{
			Source: src, Size: src.Size(), Key: key, Sinks: []transfer.SinkSpec{{Conn: near, Task: task, Trusted: baseline}}, Tuning: tuning,
		})
		if sendErr == nil {
			sendErr = result.Sinks[0].Err
		}
	})
	both.Go(func() {
		_, recvErr = transfer.Receive(t.Context(), transfer.ReceiveSpec{
			Conn: far, Task: task, Target: dst, Size: src.Size(), Key: key, Trusted: baseline != nil, Tuning: tuning,
		})
	})
	both.Wait()
	if sendErr != nil || recvErr != nil {
		t.Fatal(sendErr, recvErr)
	}
}
