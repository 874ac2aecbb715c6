package transfer_test

import (
	"sync"
	"testing"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

// BenchmarkTransfer is for profiles: disks in memory, TLS on loopback.
func BenchmarkTransfer(b *testing.B) {
	const size = 64 * manifest.ExtentSize
	source := random(size, 1)
	for name, target := range map[string][]byte{"unchanged": source, "full": make([]byte, size)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				near, far := loopback(b, netproto.Options{})
				src, dst := memory(b, source), memory(b, target)
				b.StartTimer()
				transferOnce(b, near, far, src, dst)
			}
		})
	}
}

func transferOnce(b *testing.B, near, far transfer.Conn, src, dst blockio.Device) {
	var both sync.WaitGroup
	var sendErr, recvErr error
	both.Go(func() {
		_, sendErr = transfer.Send(b.Context(), transfer.SendSpec{Source: src, Size: src.Size(), Key: key, Sinks: []transfer.SinkSpec{{Conn: near, Task: task}}})
	})
	both.Go(func() {
		_, recvErr = transfer.Receive(b.Context(), transfer.ReceiveSpec{Conn: far, Task: task, Target: dst, Size: src.Size(), Key: key})
	})
	both.Wait()
	if sendErr != nil || recvErr != nil {
		b.Fatal(sendErr, recvErr)
	}
}
