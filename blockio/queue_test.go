package blockio_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/blockio/blockiotest"
)

// More requests than a queue has places wait for one, and each gets its own content.
func TestMoreRequestsThanPlaces(t *testing.T) {
	const blocks, size = 300, 16 << 10
	device := openImage(t, blocks*size)
	block := func(i int) []byte { return bytes.Repeat([]byte{byte(i), byte(i >> 8)}, size/2) }
	each := func(do func(i int) error) {
		var group sync.WaitGroup
		errs := make([]error, blocks)
		for i := range blocks {
			group.Go(func() { errs[i] = do(i) })
		}
		group.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	each(func(i int) error {
		p := blockio.AlignedBuffer(size)
		copy(p, block(i))
		_, err := device.WriteAt(p, int64(i)*size)
		return err
	})
	each(func(i int) error {
		p := blockio.AlignedBuffer(size)
		if _, err := device.ReadAt(p, int64(i)*size); err != nil {
			return err
		}
		if !bytes.Equal(p, block(i)) {
			t.Errorf("block %d has another one's content", i)
		}
		return nil
	})
}

func openImage(t *testing.T, size int64) blockio.Device {
	t.Helper()
	device, err := blockio.Open(filepath.Join(blockiotest.DirectDirectory(t), "image"), blockio.Options{Create: size})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := device.Close(); err != nil {
			t.Error(err)
		}
	})
	return device
}
