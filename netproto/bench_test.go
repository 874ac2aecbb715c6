package netproto_test

import (
	"testing"

	"github.com/understudy-dr/understudy/netproto"
)

func benchmark(b *testing.B, from, to *netproto.Conn, typ netproto.Type, payload []byte) {
	ctx := b.Context()
	done := make(chan error, 1)
	go func() {
		for range b.N {
			f, err := to.ReadFrame(ctx)
			if err != nil {
				done <- err
				return
			}
			f.Release()
		}
		done <- nil
	}()
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if err := from.WriteFrame(ctx, typ, payload[:8], payload[8:]); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

func BenchmarkConn(b *testing.B) {
	for _, kind := range []string{"TLS", "Pipe"} {
		for name, frame := range map[string]struct {
			typ  netproto.Type
			size int
		}{"64B": {small, 64}, "1MiB": {bulk, 1 << 20}} {
			b.Run(kind+"/"+name, func(b *testing.B) {
				var from, to *netproto.Conn
				if kind == "TLS" {
					from, to = loopback(b, netproto.Options{}, netproto.Options{})
				} else {
					var err error
					if from, to, err = netproto.Pipe(netproto.Options{}); err != nil {
						b.Fatal(err)
					}
					closeLater(b, from, to)
				}
				benchmark(b, from, to, frame.typ, make([]byte, frame.size))
			})
		}
	}
}
