package blockio_test

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/blockio"
)

func TestFaultyCountsMatches(t *testing.T) {
	device := blockio.NewFaulty(blockio.NewMemory(1<<16), blockio.Rule{Op: blockio.OpWrite, Off: 4096, Length: 4096, After: 1, Count: 2, Err: unix.EIO})
	p := make([]byte, 100)
	for i, c := range []struct {
		off   int64
		fails bool
	}{
		{0, false}, {8192, false}, {3996, false}, // beside the range: no matches
		{4096, false},              // let pass
		{3997, true}, {8191, true}, // touch either edge
		{4096, false}, // the rule is spent
	} {
		n, err := device.WriteAt(p, c.off)
		if errors.Is(err, unix.EIO) != c.fails || (err != nil) != c.fails || (n == 0) != c.fails {
			t.Errorf("write %d at %d = %d, %v; want failure: %t", i, c.off, n, err, c.fails)
		}
	}
	if _, err := device.ReadAt(p, 4096); err != nil {
		t.Errorf("a read matches a rule for writes: %v", err)
	}
	if got := device.Operations(); got[blockio.OpWrite] != 7 || got[blockio.OpRead] != 1 {
		t.Errorf("Operations() = %v", got)
	}
	if got := device.Injected(); got[blockio.OpWrite] != 2 || got[blockio.OpRead] != 0 {
		t.Errorf("Injected() = %v", got)
	}
}

func TestFaultyEveryOperation(t *testing.T) {
	operations := map[blockio.Op]func(blockio.Device) error{
		blockio.OpRead:        func(d blockio.Device) error { _, err := d.ReadAt(make([]byte, 1), 0); return err },
		blockio.OpWrite:       func(d blockio.Device) error { _, err := d.WriteAt(make([]byte, 1), 0); return err },
		blockio.OpZero:        func(d blockio.Device) error { return d.WriteZeroes(0, 1) },
		blockio.OpFlush:       blockio.Device.Flush,
		blockio.OpSetReadOnly: blockio.Device.SetReadOnly,
		blockio.OpClose:       blockio.Device.Close,
	}
	for ruled := range operations {
		for op, call := range operations {
			device := blockio.NewFaulty(blockio.NewMemory(4096))
			device.Add(blockio.Rule{Op: ruled})
			if err := call(device); errors.Is(err, blockio.ErrInjected) != (op == ruled) {
				t.Errorf("rule for %s: %s = %v", ruled, op, err)
			}
		}
	}
	any := blockio.NewFaulty(blockio.NewMemory(4096), blockio.Rule{})
	for op, call := range operations {
		if err := call(any); errors.Is(err, blockio.ErrInjected) != (op != blockio.OpClose) {
			t.Errorf("rule for any: %s = %v", op, err)
		}
	}
	memory := blockio.NewMemory(4096)
	if err := blockio.NewFaulty(memory, blockio.Rule{Op: blockio.OpClose}).Close(); !errors.Is(err, blockio.ErrInjected) {
		t.Errorf("Close = %v", err)
	}
	if err := memory.Flush(); !errors.Is(err, blockio.ErrClosed) {
		t.Errorf("the device behind is still open: %v", err)
	}
}

func TestFaultyTorn(t *testing.T) {
	memory := blockio.NewMemory(1000)
	device := blockio.NewFaulty(memory, blockio.Rule{Torn: 300})
	ones := bytes.Repeat([]byte{1}, 1000)
	want := make([]byte, 1000)
	copy(want, ones[:300])
	if n, err := device.WriteAt(ones, 0); n != 300 || !errors.Is(err, blockio.ErrInjected) || !bytes.Equal(memory.Bytes(), want) {
		t.Errorf("WriteAt = %d, %v; content as expected: %t", n, err, bytes.Equal(memory.Bytes(), want))
	}
	got := make([]byte, 1000)
	if n, err := device.ReadAt(got, 0); n != 300 || !errors.Is(err, blockio.ErrInjected) || !bytes.Equal(got, want) {
		t.Errorf("ReadAt = %d, %v", n, err)
	}
	copy(memory.Bytes(), ones)
	copy(want, make([]byte, 300))
	copy(want[300:], ones)
	if err := device.WriteZeroes(0, 1000); !errors.Is(err, blockio.ErrInjected) || !bytes.Equal(memory.Bytes(), want) {
		t.Errorf("WriteZeroes = %v; content as expected: %t", err, bytes.Equal(memory.Bytes(), want))
	}
	device.Clear()
	if n, err := device.WriteAt(ones, 0); n != 1000 || err != nil {
		t.Errorf("WriteAt after Clear = %d, %v", n, err)
	}
}

func TestFaultyDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device := blockio.NewFaulty(blockio.NewMemory(4096), blockio.Rule{Op: blockio.OpRead, Delay: time.Second, Count: 1},
			blockio.Rule{Op: blockio.OpRead, Delay: time.Hour})
		begun := time.Now()
		if n, err := device.ReadAt(make([]byte, 10), 0); n != 10 || err != nil || time.Since(begun) != time.Second {
			t.Errorf("ReadAt = %d, %v after %s", n, err, time.Since(begun))
		}
		hanging := make(chan error)
		go func() {
			_, err := device.ReadAt(make([]byte, 10), 0)
			hanging <- err
		}()
		synctest.Wait()
		if err := device.Close(); err != nil {
			t.Error(err)
		}
		if err := <-hanging; !errors.Is(err, blockio.ErrClosed) || time.Since(begun) > time.Minute {
			t.Errorf("the hanging read ends with %v after %s", err, time.Since(begun))
		}
	})
}

func TestMeterCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := blockio.NewFaulty(blockio.NewMemory(1000), blockio.Rule{Op: blockio.OpRead, Delay: time.Second},
			blockio.Rule{Op: blockio.OpFlush, Delay: time.Minute},
			blockio.Rule{Op: blockio.OpWrite, After: 1, Torn: 30})
		meter := blockio.NewMeter(slow)
		done := make(chan error)
		for range 2 { // at the same time: busy for one second, not two
			go func() {
				_, err := meter.ReadAt(make([]byte, 700), 300)
				done <- err
			}()
		}
		time.Sleep(time.Second / 2)
		if busy := meter.Counters().ReadBusy; busy != time.Second/2 {
			t.Errorf("busy for %s in the middle of a read", busy)
		}
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour) // idle
		if n, err := meter.ReadAt(make([]byte, 700), 900); n != 100 {
			t.Errorf("ReadAt = %d, %v", n, err)
		}
		if _, err := meter.WriteAt(make([]byte, 200), 0); err != nil {
			t.Error(err)
		}
		if n, err := meter.WriteAt(make([]byte, 200), 0); n != 30 || err == nil {
			t.Errorf("torn WriteAt = %d, %v", n, err)
		}
		if err := errors.Join(meter.WriteZeroes(5, 50), meter.Flush()); err != nil {
			t.Error(err)
		}
		if err := meter.WriteZeroes(5, 5000); err == nil {
			t.Error("WriteZeroes beyond the end succeeds")
		}
		want := blockio.Counters{
			ReadOperations: 3, ReadBytes: 1500, WriteOperations: 2, WriteBytes: 230, ZeroOperations: 2, ZeroBytes: 50, Flushes: 1,
			ReadBusy: 2 * time.Second, WriteBusy: time.Minute,
		}
		if got := meter.Counters(); got != want {
			t.Errorf("Counters() = %+v, want %+v", got, want)
		}
	})
}
