package blockio_test

import (
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/blockio/blockiotest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// images returns a function that makes image files in one directory and unlinks them at once.
func images(t *testing.T, open func(path string, size int64) (blockio.Device, error)) func(*testing.T, int64) blockio.Device {
	directory := blockiotest.DirectDirectory(t)
	var made atomic.Int64
	return func(t *testing.T, size int64) blockio.Device {
		t.Helper()
		path := filepath.Join(directory, strconv.FormatInt(made.Add(1), 10))
		device, err := open(path, size)
		if err != nil {
			t.Fatal(err)
		}
		// Unlinked at once: hundreds of images of a random history would else stay until the test's end.
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return device
	}
}

func TestConformance(t *testing.T) {
	direct := func(path string, size int64) (blockio.Device, error) {
		return blockio.Open(path, blockio.Options{Create: size})
	}
	calls := func(path string, size int64) (blockio.Device, error) {
		return blockio.OpenWithoutQueue(path, blockio.Options{Create: size})
	}
	buffered := func(path string, size int64) (blockio.Device, error) {
		return blockio.Open(path, blockio.Options{Create: size, Buffered: true})
	}
	sectors4096 := func(path string, size int64) (blockio.Device, error) {
		return blockio.OpenWithSector(path, blockio.Options{Create: size}, 4096)
	}
	memory := func(_ *testing.T, size int64) blockio.Device { return blockio.NewMemory(size) }

	t.Run("direct", func(t *testing.T) { blockiotest.TestDevice(t, images(t, direct)) })
	t.Run("direct by system calls", func(t *testing.T) { blockiotest.TestDevice(t, images(t, calls)) })
	t.Run("direct with sectors of 4096", func(t *testing.T) { blockiotest.TestDevice(t, images(t, sectors4096)) })
	t.Run("buffered", func(t *testing.T) { blockiotest.TestDevice(t, images(t, buffered)) })
	t.Run("memory", func(t *testing.T) { blockiotest.TestDevice(t, memory) })
	t.Run("faulty without rules", func(t *testing.T) {
		blockiotest.TestDevice(t, func(t *testing.T, size int64) blockio.Device { return blockio.NewFaulty(memory(t, size)) })
	})
	t.Run("meter", func(t *testing.T) {
		blockiotest.TestDevice(t, func(t *testing.T, size int64) blockio.Device { return blockio.NewMeter(memory(t, size)) })
	})
}
