package netproto_test

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/netproto"
)

// late is an end of a line that carries what is written after a while.
type late struct {
	net.Conn
	by *atomic.Int64 // nanoseconds
}

func (l late) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(l.by.Load()))
	return l.Conn.Write(p)
}

// connectLate makes a connection whose handshakes are answered after a round trip; later nothing is late any more, so that what waits
// does so by itself.
func connectLate(t *testing.T, rtt time.Duration) (d, l *netproto.Conn) {
	t.Helper()
	by := new(atomic.Int64)
	by.Store(int64(rtt))
	left, right := net.Pipe()
	dialed, listened := lineOf(t, late{left, by}, late{right, by})
	d, l = connectOver(t, dialed, listened, netproto.Options{}, netproto.Options{})
	by.Store(0)
	return d, l
}

// TestSmallFramesShareRecords: on a long line small frames wait for those that come soon, and large ones do not.
func TestSmallFramesShareRecords(t *testing.T) {
	const record, header = 22, netproto.HeaderSize
	for name, c := range map[string]struct {
		rtt     time.Duration
		records int64
		last    time.Duration // the first frame's way
	}{
		"long":      {96 * time.Millisecond, 1, 3 * time.Millisecond},
		"very long": {time.Second, 1, 5 * time.Millisecond},
		"short":     {9 * time.Millisecond, 3, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := connectLate(t, c.rtt)
				before, began := a.Stats().BytesWritten, time.Now()
				go func() {
					for range 3 {
						mustWrite(t, a, small, []byte("frame"))
						time.Sleep(time.Millisecond)
					}
				}()
				mustRead(t, b).Release()
				if took := time.Since(began); took != c.last {
					t.Errorf("the first frame took %v, not %v", took, c.last)
				}
				mustRead(t, b).Release()
				mustRead(t, b).Release()
				synctest.Wait()
				if sent := a.Stats().BytesWritten - before; sent != 3*(header+5)+c.records*record {
					t.Errorf("three frames took %d bytes on the wire, not %d records", sent, c.records)
				}

				time.Sleep(time.Second)
				began = time.Now()
				mustWrite(t, a, bulk, make([]byte, 16<<10))
				mustRead(t, b).Release()
				if took := time.Since(began); took != 0 {
					t.Errorf("a frame that fills a record took %v", took)
				}

				mustWrite(t, a, small, []byte("last"))
				if err := a.Close(); err != nil {
					t.Error(err)
				}
				if f := mustRead(t, b); string(f.Payload) != "last" {
					t.Errorf("got %q", f.Payload)
				}
				if _, err := b.ReadFrame(t.Context()); !errors.Is(err, io.EOF) {
					t.Error(err)
				}
				_ = b.Close()
			})
		})
	}
}
