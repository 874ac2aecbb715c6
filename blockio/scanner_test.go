package blockio_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/blockio"
)

const mib = blockio.RequestSize

// numbered is a device whose every MiB holds its number in all bytes, counted from 1.
func numbered(size int64) *blockio.Memory {
	device := blockio.NewMemory(size)
	for i := 0; i*mib < int(size); i++ {
		copy(device.Bytes()[i*mib:], bytes.Repeat([]byte{byte(1 + i)}, mib))
	}
	return device
}

// jittery reads after random delays, so that reads end out of order, and notes how many run at once.
type jittery struct {
	blockio.Device
	running, most atomic.Int64
}

func (j *jittery) ReadAt(p []byte, off int64) (int, error) {
	if now := j.running.Add(1); now > j.most.Load() {
		j.most.Store(now)
	}
	defer j.running.Add(-1)
	time.Sleep(time.Duration(1+rand.IntN(1000)) * time.Millisecond)
	return j.Device.ReadAt(p, off)
}

func TestScannerInOrder(t *testing.T) {
	memory := numbered(6*mib + 4097)
	rapid.Check(t, func(rt *rapid.T) {
		end := rapid.Int64Range(0, memory.Size()).Draw(rt, "end")
		start := rapid.Int64Range(0, end).Draw(rt, "start")
		depth := rapid.IntRange(1, 9).Draw(rt, "depth")
		want := memory.Bytes()[start:end]
		if end == 0 {
			want = memory.Bytes() // End 0 is the device's size
		}
		synctest.Test(t, func(t *testing.T) {
			device := &jittery{Device: memory}
			scanner := blockio.NewScanner(t.Context(), device, blockio.ScanOptions{QueueDepth: depth, Start: start, End: end})
			defer closeScanner(t, scanner)
			off := start
			for {
				chunk, err := scanner.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if chunk.Off != off || !bytes.Equal(chunk.Data, want[off-start:off-start+int64(len(chunk.Data))]) {
					t.Fatalf("chunk of %d bytes at %d, want the one at %d with the device's content", len(chunk.Data), chunk.Off, off)
				}
				if rest := start + int64(len(want)) - off; int64(len(chunk.Data)) != min(mib, rest) {
					t.Fatalf("chunk of %d bytes, %d are left", len(chunk.Data), rest)
				}
				off += int64(len(chunk.Data))
				chunk.Release()
			}
			if off != start+int64(len(want)) {
				t.Fatalf("the scan ends at %d, want %d", off, start+int64(len(want)))
			}
			if _, err := scanner.Next(); err != io.EOF {
				t.Fatalf("Next after the end = %v", err)
			}
			if most := device.most.Load(); most > int64(depth) {
				t.Fatalf("%d reads at once, want at most %d", most, depth)
			}
		})
	})
}

// TestScannerKeepsTheQueueFull counts reads that hang: there must be as many as the queue is deep, no fewer and no more.
func TestScannerKeepsTheQueueFull(t *testing.T) {
	for _, depth := range []int{0, 1, 5} {
		synctest.Test(t, func(t *testing.T) {
			device := &jittery{Device: numbered(40 * mib)}
			scanner := blockio.NewScanner(t.Context(), device, blockio.ScanOptions{QueueDepth: depth})
			synctest.Wait()
			want := int64(depth)
			if depth == 0 {
				want = blockio.DefaultQueueDepth
			}
			if running := device.running.Load(); running != want {
				t.Errorf("%d reads at once, want %d", running, want)
			}
			if err := scanner.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestScannerIsBounded has a consumer that holds everything: reading must stop, and go on after a Release.
func TestScannerIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := blockio.NewMeter(numbered(40 * mib))
		pool := blockio.NewPool(6)
		scanner := blockio.NewScanner(t.Context(), device, blockio.ScanOptions{QueueDepth: 4, Pool: pool})
		defer closeScanner(t, scanner)
		synctest.Wait()
		if read := device.Counters().ReadOperations; read != 6 {
			t.Errorf("%d reads ahead, want 6: 3/2 of the queue depth", read)
		}
		var held []*blockio.Chunk
		for range 6 {
			chunk, err := scanner.Next()
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, chunk)
		}
		synctest.Wait()
		if read := device.Counters().ReadOperations; read != 6 {
			t.Errorf("%d reads with all buffers held, want 6", read)
		}
		held[3].Release()
		if chunk, err := scanner.Next(); err != nil || chunk.Off != 6*mib {
			t.Fatalf("Next after a Release = %v, %v", chunk, err)
		}
	})
}

func TestScannerErrorInItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := blockio.NewFaulty(&jittery{Device: numbered(20 * mib)}, blockio.Rule{Op: blockio.OpRead, Off: 5*mib + 17, Length: 1, Err: unix.EIO})
		pool := blockio.NewPool(30)
		scanner := blockio.NewScanner(t.Context(), device, blockio.ScanOptions{QueueDepth: 8, Pool: pool})
		for i := range 5 {
			chunk, err := scanner.Next()
			if err != nil || chunk.Data[0] != byte(i+1) {
				t.Fatalf("chunk %d: %v", i, err)
			}
			chunk.Release()
		}
		for range 2 {
			chunk, err := scanner.Next()
			if chunk != nil || !errors.Is(err, unix.EIO) || !bytes.Contains([]byte(err.Error()), []byte("offset 5242880")) {
				t.Errorf("Next = %v, %v; want EIO at offset 5242880", chunk, err)
			}
		}
		if err := scanner.Close(); err != nil {
			t.Error(err)
		}
		drain(t, pool, 30)
	})
}

// TestScannerStopsAfterAnError reads no further once a read has failed, be it that nobody calls Next.
func TestScannerStopsAfterAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := blockio.NewFaulty(numbered(20*mib), blockio.Rule{Off: 0, Length: 1, Err: unix.EIO}, blockio.Rule{Delay: time.Second})
		scanner := blockio.NewScanner(t.Context(), device, blockio.ScanOptions{QueueDepth: 4})
		time.Sleep(time.Minute)
		if reads := device.Operations()[blockio.OpRead]; reads > 4 {
			t.Errorf("%d reads, want no more than the 4 that may have been under way", reads)
		}
		closeScanner(t, scanner)
	})
}

func closeScanner(t *testing.T, scanner *blockio.Scanner) {
	t.Helper()
	if err := scanner.Close(); err != nil {
		t.Error(err)
	}
}

// drain takes all buffers: none may be missing.
func drain(t *testing.T, pool *blockio.Pool, buffers int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for i := range buffers {
		if _, err := pool.Get(ctx); err != nil {
			t.Fatalf("only %d of %d buffers are back: %v", i, buffers, err)
		}
	}
}

type shortReads struct{ blockio.Device }

func (shortReads) ReadAt(p []byte, _ int64) (int, error) { return len(p) / 2, io.EOF }

func TestScannerTakesNoEarlyEnd(t *testing.T) {
	scanner := blockio.NewScanner(t.Context(), shortReads{blockio.NewMemory(mib)}, blockio.ScanOptions{})
	defer closeScanner(t, scanner)
	if _, err := scanner.Next(); errors.Is(err, io.EOF) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Next = %v, want ErrUnexpectedEOF", err)
	}
}

func TestScannerChunksOutliveClose(t *testing.T) {
	pool := blockio.NewPool(12)
	scanner := blockio.NewScanner(t.Context(), numbered(20*mib), blockio.ScanOptions{QueueDepth: 4, Pool: pool})
	chunk, err := scanner.Next()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := scanner.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := scanner.Next(); !errors.Is(err, blockio.ErrClosed) {
		t.Errorf("Next after Close = %v, want ErrClosed", err)
	}
	drain(t, pool, 11)
	if !bytes.Equal(chunk.Data, bytes.Repeat([]byte{1}, mib)) {
		t.Error("the chunk has changed")
	}
	chunk.Release()
	chunk.Release()
	drain(t, pool, 1)
}

func TestScannerEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("cause")
		ctx, cancel := context.WithCancelCause(t.Context())
		pool := blockio.NewPool(1)
		scanner := blockio.NewScanner(ctx, numbered(20*mib), blockio.ScanOptions{Pool: pool})
		if _, err := scanner.Next(); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(time.Second)
			cancel(cause)
		}()
		// No buffer is left, so that only the context ends the wait.
		if _, err := scanner.Next(); !errors.Is(err, cause) {
			t.Errorf("Next = %v, want the cause", err)
		}
		if err := scanner.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestScannerRefusesRanges(t *testing.T) {
	for _, o := range []blockio.ScanOptions{{Start: -1}, {End: 101}, {Start: 50, End: 40}, {Start: 101}} {
		scanner := blockio.NewScanner(t.Context(), blockio.NewMemory(100), o)
		if _, err := scanner.Next(); !errors.Is(err, blockio.ErrOutOfRange) {
			t.Errorf("scan from %d to %d: %v, want ErrOutOfRange", o.Start, o.End, err)
		}
		if err := scanner.Close(); err != nil {
			t.Error(err)
		}
	}
}
