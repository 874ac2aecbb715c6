package blockio_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"unsafe"

	"github.com/understudy-dr/understudy/blockio"
)

func aligned(p []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))%blockio.Alignment == 0
}

func TestAlignedBuffer(t *testing.T) {
	for _, size := range []int{0, 1, 511, 4096, 65536, blockio.RequestSize + 1} {
		for range 20 {
			if p := blockio.AlignedBuffer(size); len(p) != size || cap(p) != size || !aligned(p) {
				t.Fatalf("AlignedBuffer(%d): len %d, cap %d, aligned %t", size, len(p), cap(p), aligned(p))
			}
		}
	}
}

func TestPoolBlocksAtItsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := blockio.NewPool(2)
		first, _ := pool.Get(t.Context())
		second, err := pool.Get(t.Context())
		if err != nil || len(second) != blockio.RequestSize || !aligned(second) {
			t.Fatalf("Get: %d bytes, %v", len(second), err)
		}
		third := make(chan []byte)
		go func() {
			p, _ := pool.Get(t.Context())
			third <- p
		}()
		synctest.Wait()
		select {
		case <-third:
			t.Fatal("a third buffer was given out")
		default:
		}
		pool.Put(first[:10])
		if p := <-third; &p[0] != &first[0] || len(p) != blockio.RequestSize {
			t.Errorf("the buffer put back is not the one given out, or short: %d bytes", len(p))
		}
	})
}

func TestPoolEndsWithContext(t *testing.T) {
	pool := blockio.NewPool(1)
	if _, err := pool.Get(t.Context()); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("cause")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := pool.Get(ctx); !errors.Is(err, cause) {
		t.Errorf("Get = %v, want the context's cause", err)
	}
}

func TestPoolRefusesStrangers(t *testing.T) {
	for name, misuse := range map[string]func(*blockio.Pool){
		"a buffer of another size": func(p *blockio.Pool) { p.Put(make([]byte, 10)) },
		"one buffer too many":      func(p *blockio.Pool) { p.Put(blockio.AlignedBuffer(blockio.RequestSize)) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Put of %s does not panic", name)
				}
			}()
			misuse(blockio.NewPool(1))
		}()
	}
}

func TestPoolConcurrent(t *testing.T) {
	const bound = 3
	pool := blockio.NewPool(bound)
	var out atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 200 {
				p, err := pool.Get(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if n := out.Add(1); n > bound {
					t.Errorf("%d buffers are out", n)
				}
				if p[0] != 0 {
					t.Error("the buffer has another owner")
				}
				p[0] = 1
				runtime.Gosched()
				p[0] = 0
				out.Add(-1)
				pool.Put(p)
			}
		})
	}
	group.Wait()
}
