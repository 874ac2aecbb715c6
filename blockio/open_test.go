package blockio_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/blockio/blockiotest"
)

func mustOpen(t *testing.T, path string, o blockio.Options) blockio.Device {
	t.Helper()
	device, err := blockio.Open(path, o)
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

func TestOpenRefuses(t *testing.T) {
	directory := t.TempDir()
	image := filepath.Join(directory, "image")
	if err := os.WriteFile(image, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(directory, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		path    string
		options blockio.Options
		message string
	}{
		{filepath.Join(directory, "absent"), blockio.Options{}, "no such file"},
		{filepath.Join(directory, "absent", "image"), blockio.Options{Create: 1, Buffered: true}, "no such file"},
		{directory, blockio.Options{Buffered: true}, "neither an image file nor a block device"},
		{fifo, blockio.Options{Buffered: true}, "neither an image file nor a block device"},
		{"/dev/null", blockio.Options{Create: 512, Buffered: true}, "neither an image file nor a block device"},
		{image, blockio.Options{Create: -1, Buffered: true}, "negative"},
		{image, blockio.Options{Create: 512, ReadOnly: true, Buffered: true}, "read-only"},
	}
	for _, c := range cases {
		_, err := blockio.Open(c.path, c.options)
		if err == nil || !strings.Contains(err.Error(), c.message) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("Open(%s, %+v) = %v; want path and %q", c.path, c.options, err, c.message)
		}
	}
	if content, err := os.ReadFile(image); err != nil || string(content) != "content" {
		t.Errorf("a refused image now holds %q, %v", content, err)
	}
}

// proc has regular files but no direct I/O, on every Linux.
func TestOpenWithoutDirectIO(t *testing.T) {
	const path = "/proc/version"
	_, err := blockio.Open(path, blockio.Options{ReadOnly: true})
	if !errors.Is(err, blockio.ErrDirectUnsupported) {
		t.Fatalf("Open = %v, want ErrDirectUnsupported", err)
	}
	for _, part := range []string{path, "open it buffered"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("message %q does not name %q", err, part)
		}
	}
}

func TestSectorFor(t *testing.T) {
	for _, c := range []struct {
		offset, memory uint32
		sector         int
	}{{1, 1, 512}, {512, 4, 512}, {512, 4096, 512}, {1024, 512, 4096}, {4096, 4096, 4096}} {
		if sector, err := blockio.SectorFor("image", c.offset, c.memory); sector != c.sector || err != nil {
			t.Errorf("SectorFor(%d, %d) = %d, %v; want %d", c.offset, c.memory, sector, err, c.sector)
		}
	}
	for _, c := range [][2]uint32{{0, 0}, {0, 4}, {8192, 4}, {512, 8192}} {
		if _, err := blockio.SectorFor("image", c[0], c[1]); !errors.Is(err, blockio.ErrDirectUnsupported) {
			t.Errorf("SectorFor(%d, %d) = %v, want ErrDirectUnsupported", c[0], c[1], err)
		}
	}
}

func TestCheckWholeSectors(t *testing.T) {
	for _, c := range []struct {
		size   int64
		sector int
		want   string // in the message; empty: no error
	}{
		{8 << 20, 512, ""}, {8<<20 + 512, 512, ""}, {8<<20 + 4096, 4096, ""}, {0, 4096, ""},
		{8<<20 + 512, 4096, "its last 512 bytes; enlarge it to a multiple of 4096 bytes"}, {700, 512, "its last 188 bytes"},
	} {
		err := blockio.CheckWholeSectors(c.size, c.sector)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("CheckWholeSectors(%d, %d) = %v, want %q", c.size, c.sector, err, c.want)
		}
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	// Larger than any file system allows.
	if _, err := blockio.Open(path, blockio.Options{Create: 1<<63 - 1, Buffered: true}); err == nil {
		t.Fatal("Open succeeds")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the image is left behind: %v", err)
	}
}

// TestReopen looks at an image from outside: its size stays what it was and its content is what was written, tail included.
func TestReopen(t *testing.T) {
	for _, buffered := range []bool{false, true} {
		t.Run(fmt.Sprintf("buffered=%t", buffered), func(t *testing.T) {
			const size = 3*blockio.Alignment + 700
			path := filepath.Join(blockiotest.DirectDirectory(t), "image")
			if err := os.WriteFile(path, bytes.Repeat([]byte{0xee}, 2*size), 0o600); err != nil {
				t.Fatal(err)
			}
			device := mustOpen(t, path, blockio.Options{Create: size, Buffered: buffered})
			want := make([]byte, size)
			for _, off := range []int{0, 1000, size - 900, size - 1} {
				copy(want[off:], "written")
				if _, err := device.WriteAt(want[off:min(off+7, size)], int64(off)); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(device.Flush(), device.Close()); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("the image has %d bytes, want %d; equal: %t; %v", len(got), size, bytes.Equal(got, want), err)
			}
			device = mustOpen(t, path, blockio.Options{ReadOnly: true, Buffered: buffered})
			if _, err := device.WriteAt([]byte{1}, 0); !errors.Is(err, blockio.ErrReadOnly) {
				t.Errorf("WriteAt = %v, want ErrReadOnly", err)
			}
			if err := device.WriteZeroes(0, 512); !errors.Is(err, blockio.ErrReadOnly) {
				t.Errorf("WriteZeroes = %v, want ErrReadOnly", err)
			}
			got := make([]byte, size)
			if _, err := device.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("ReadAt: %v; equal: %t", err, bytes.Equal(got, want))
			}
		})
	}
}

func TestShrunkImage(t *testing.T) {
	path := filepath.Join(blockiotest.DirectDirectory(t), "image")
	device := mustOpen(t, path, blockio.Options{Create: 1 << 16})
	if err := os.Truncate(path, 1<<15); err != nil {
		t.Fatal(err)
	}
	_, err := device.ReadAt(make([]byte, 1<<16), 0)
	if err == nil || !strings.Contains(err.Error(), "shorter") || !strings.Contains(err.Error(), path) {
		t.Errorf("ReadAt = %v, want an error that names the image and says it became shorter", err)
	}
}

// TestZeroesKeepImagesSparse also holds what zeroing is for: a replica of an empty disk takes no room.
// A write into a hole takes the space that it needs, and no more.
func TestWritesKeepImagesSparse(t *testing.T) {
	const size, length = 8 << 20, 64 << 10
	path := filepath.Join(blockiotest.DirectDirectory(t), "image")
	device := mustOpen(t, path, blockio.Options{Create: size})
	want := make([]byte, size)
	for _, off := range []int64{0, 3 << 20, 5<<20 + 4096, size - length} {
		copy(want[off:], bytes.Repeat([]byte{byte(off>>20) + 1}, length))
		if _, err := device.WriteAt(want[off:off+length], off); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, size)
	if _, err := device.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the image differs from what was written, %v", err)
	}
	if got := allocated(t, device, path); got < 4*length || got > 6*length {
		t.Errorf("%d bytes are allocated after writing %d", got, 4*length)
	}
}

// allocated is how many bytes an image takes on its file system.
func allocated(t *testing.T, device blockio.Device, path string) int64 {
	t.Helper()
	var status unix.Stat_t
	if err := errors.Join(device.Flush(), unix.Stat(path, &status)); err != nil {
		t.Fatal(err)
	}
	return status.Blocks * 512
}

func TestZeroesKeepImagesSparse(t *testing.T) {
	const size = 8 << 20
	path := filepath.Join(blockiotest.DirectDirectory(t), "image")
	device := mustOpen(t, path, blockio.Options{Create: size})
	full := bytes.Repeat([]byte{1}, size)
	if _, err := device.WriteAt(full, 0); err != nil {
		t.Fatal(err)
	}
	if got := allocated(t, device, path); got < size {
		t.Fatalf("%d bytes are allocated after writing %d", got, size)
	}
	if err := device.WriteZeroes(0, size); err != nil {
		t.Fatal(err)
	}
	if got := allocated(t, device, path); got > size/8 {
		t.Errorf("%d bytes are still allocated after zeroing", got)
	}
}

func TestZeroByWriting(t *testing.T) {
	const size = 3*blockio.RequestSize + blockio.Alignment
	device := blockio.NewMemory(size)
	want := bytes.Repeat([]byte{1}, size)
	copy(device.Bytes(), want)
	const off, length = 512, 2*blockio.RequestSize + 1024
	clear(want[off : off+length])
	if err := blockio.ZeroByWriting(device, off, length); err != nil || !bytes.Equal(device.Bytes(), want) {
		t.Errorf("ZeroByWriting: %v; equal: %t", err, bytes.Equal(device.Bytes(), want))
	}
}

func TestNoSpace(t *testing.T) {
	for _, errno := range []error{unix.ENOSPC, unix.EDQUOT} {
		err := blockio.WrapNoSpace(&os.PathError{Op: "write", Path: "image", Err: errno})
		if !errors.Is(err, blockio.ErrNoSpace) || !errors.Is(err, errno) || !strings.Contains(err.Error(), "full") {
			t.Errorf("%v is not recognised as no space", err)
		}
	}
	if err := fmt.Errorf("wrapped: %w", blockio.ErrNoSpace); !errors.Is(err, unix.ENOSPC) {
		t.Error("ErrNoSpace does not wrap ENOSPC")
	}
	if err := blockio.WrapNoSpace(unix.EIO); errors.Is(err, blockio.ErrNoSpace) {
		t.Error("EIO is taken for no space")
	}
}
