package transfer_test

import (
	"testing"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

// wireOfUnchanged compares an unchanged disk of so many extents over TLS, by a scan, and returns the bytes of both ways.
func wireOfUnchanged(t *testing.T, extents int64) int64 {
	t.Helper()
	source := sparse{size: extents * manifest.ExtentSize}
	a, b := loopback(t, netproto.Options{})
	o := run(t.Context(), a, b, transfer.SendSpec{Source: source, Size: source.size, Key: key},
		transfer.SinkSpec{}, transfer.ReceiveSpec{Target: source, Size: source.size, Key: key})
	if err := o.err(); err != nil {
		t.Fatal(err)
	}
	return o.send.Sinks[0].Counters.Wire
}

// TestWireOfAnUnchangedTebibyte takes what a TiB costs from two shorter runs, whose difference has no handshakes in it. What goes
// by time is added: an ACK every two seconds, of a disk that is read at 75 MB/s.
func TestWireOfAnUnchangedTebibyte(t *testing.T) {
	const (
		extents = 1 << 40 / manifest.ExtentSize
		short   = 256
		ack     = netproto.HeaderSize + 4 + 22 // frame and TLS record
		acks    = 4 * 3600 / 2
	)
	few, many := wireOfUnchanged(t, short), wireOfUnchanged(t, 3*short)
	total := few + (many-few)*(extents-short)/(2*short) + acks*ack
	if total > 10<<20 {
		t.Errorf("an unchanged TiB takes %d bytes on the wire without trust, at most 10 MiB are allowed", total)
	}
	t.Logf("%.2f MiB a TiB", float64(total)/(1<<20))
}
