package devices_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/appliance/devices"
	"github.com/understudy-dr/understudy/blockio"
)

func image(t *testing.T, size int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func acquire(t *testing.T, r *devices.Registry, numbers ...int) []*devices.Lease {
	t.Helper()
	leases, err := r.Acquire("task", func(error) {}, numbers...)
	if err != nil {
		t.Fatal(err)
	}
	return leases
}

func TestOneUserADisk(t *testing.T) {
	r := devices.NewRegistry(true)
	r.Plug(4, image(t, 8192), false)
	r.Plug(5, image(t, 8192), false)
	lease := acquire(t, r, 4)[0]
	if _, err := r.Acquire("other", func(error) {}, 5, 4); !errors.Is(err, devices.ErrInUse) {
		t.Errorf("second user: %v, want ErrInUse", err)
	}
	both := acquire(t, r, 5) // all or none: 5 is still free
	if err := r.Detach(4); !errors.Is(err, devices.ErrInUse) {
		t.Errorf("detach: %v, want ErrInUse", err)
	}
	for _, l := range []*devices.Lease{lease, both[0], lease} {
		if err := l.Release(); err != nil {
			t.Error(err)
		}
	}
	if err := r.Detach(4); err != nil {
		t.Error(err)
	}
	if _, err := r.Acquire("late", func(error) {}, 4); !errors.Is(err, devices.ErrDetached) {
		t.Errorf("after detach: %v, want ErrDetached", err)
	}
	if _, err := r.Acquire("late", func(error) {}, 6); !errors.Is(err, devices.ErrNotPlugged) {
		t.Errorf("missing disk: %v, want ErrNotPlugged", err)
	}
}

func TestSourceIsReadOnly(t *testing.T) {
	r := devices.NewRegistry(true)
	r.Plug(4, image(t, 8192), false)
	lease := acquire(t, r, 4)[0]
	source, err := lease.OpenSource()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := source.WriteAt(make([]byte, 512), 0); !errors.Is(err, blockio.ErrReadOnly) {
		t.Errorf("write to a source: %v, want ErrReadOnly", err)
	}
	if err := lease.Release(); err != nil {
		t.Error(err)
	}
	if _, err := source.ReadAt(make([]byte, 512), 0); !errors.Is(err, blockio.ErrClosed) {
		t.Errorf("read after release: %v, want ErrClosed", err)
	}
}

func TestTargetPluggedReadOnly(t *testing.T) {
	r := devices.NewRegistry(true)
	r.Plug(4, image(t, 8192), true)
	lease := acquire(t, r, 4)[0]
	if _, err := lease.OpenTarget(); !errors.Is(err, blockio.ErrReadOnly) {
		t.Errorf("target: %v, want ErrReadOnly", err)
	}
	if err := lease.Release(); err != nil {
		t.Error(err)
	}
}

func TestUnplugEndsTheUser(t *testing.T) {
	r := devices.NewRegistry(true)
	path := image(t, 8192)
	r.Plug(4, path, false)
	ctx, cancel := context.WithCancelCause(t.Context())
	leases, err := r.Acquire("task", cancel, 4)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leases[0].OpenTarget(); err != nil {
		t.Fatal(err)
	}
	r.Plug(4, path, false) // another disk in its place
	if cause := context.Cause(ctx); !errors.Is(cause, devices.ErrUnplugged) {
		t.Errorf("cause is %v, want ErrUnplugged", cause)
	}
	second := acquire(t, r, 4)[0] // the new disk is free at once
	if err := leases[0].Release(); err != nil {
		t.Error(err)
	}
	if err := r.Detach(4); !errors.Is(err, devices.ErrInUse) {
		t.Errorf("the old user's release freed the new disk: %v", err)
	}
	if err := second.Release(); err != nil {
		t.Error(err)
	}
}

func TestList(t *testing.T) {
	r := devices.NewRegistry(true)
	r.Plug(17, image(t, 12288), false)
	r.Plug(4, image(t, 8192), true)
	r.Plug(5, "/nonexistent/disk.raw", false)
	list := r.List()
	var numbers []int
	for _, d := range list {
		numbers = append(numbers, d.Number)
	}
	if !slices.Equal(numbers, []int{4, 5, 17}) {
		t.Fatalf("disks are %v", numbers)
	}
	if list[0].SizeBytes != 8192 || !list[0].ReadOnly || list[0].SectorSize != 512 || list[0].Problem != "" {
		t.Errorf("disk 4 is %+v", list[0])
	}
	if list[1].Problem == "" || list[1].SizeBytes != 0 {
		t.Errorf("disk 5 is %+v, want a problem", list[1])
	}
	if list[2].SizeBytes != 12288 {
		t.Errorf("disk 17 is %+v", list[2])
	}
	r.Unplug(5)
	if err := r.Detach(4); err != nil {
		t.Fatal(err)
	}
	if list = r.List(); len(list) != 2 || !list[0].Detached || list[0].SizeBytes != 8192 {
		t.Errorf("disks are %+v", list)
	}
}

// A disk that hangs when it is opened holds up the List that opens it and nothing else.
func TestHangingDisk(t *testing.T) {
	r := devices.NewRegistry(true)
	hanging, good := image(t, 8192), image(t, 12288)
	opening, goOn := make(chan struct{}), make(chan struct{})
	r.SetOpen(func(path string, o blockio.Options) (blockio.Device, error) {
		if path == hanging {
			close(opening)
			<-goOn
		}
		return blockio.Open(path, o)
	})
	r.Plug(4, hanging, false)
	first := make(chan []control.Device)
	go func() { first <- r.List() }()
	<-opening
	r.Plug(5, good, false)
	list := r.List()
	if len(list) != 2 || list[0].Problem == "" || list[0].SizeBytes != 0 || list[1].SizeBytes != 12288 {
		t.Errorf("disks are %+v, want a problem with disk 4 alone", list)
	}
	if _, err := r.Acquire("task", func(error) {}, 5, 4); !errors.Is(err, devices.ErrInUse) {
		t.Errorf("acquire: %v, want ErrInUse", err)
	}
	if err := r.Detach(4); !errors.Is(err, devices.ErrInUse) {
		t.Errorf("detach: %v, want ErrInUse", err)
	}
	if err := acquire(t, r, 5)[0].Release(); err != nil {
		t.Error(err)
	}
	r.Unplug(5)
	close(goOn)
	if list := <-first; len(list) != 1 || list[0].SizeBytes != 8192 || list[0].Problem != "" {
		t.Errorf("disks are %+v, want disk 4 with its size", list)
	}
	if err := r.Detach(4); err != nil {
		t.Error(err)
	}
}

// A disk that is replaced while it is measured does not give its size to the new one.
func TestReplacedWhileMeasured(t *testing.T) {
	r := devices.NewRegistry(true)
	old, replacement := image(t, 8192), image(t, 12288)
	r.SetOpen(func(path string, o blockio.Options) (blockio.Device, error) {
		if path == old {
			r.Plug(4, replacement, false)
		}
		return blockio.Open(path, o)
	})
	r.Plug(4, old, false)
	if list := r.List(); len(list) != 0 {
		t.Errorf("disks are %+v, want none", list)
	}
	if list := r.List(); len(list) != 1 || list[0].SizeBytes != 12288 {
		t.Errorf("disks are %+v, want the new one", list)
	}
}

// Without --buffered a disk is opened with direct I/O, or an error says what to do. Which of the two depends on the file system.
func TestDirect(t *testing.T) {
	r := devices.NewRegistry(false)
	r.Plug(4, image(t, 8192), false)
	lease := acquire(t, r, 4)[0]
	if _, err := lease.OpenTarget(); err != nil && !errors.Is(err, blockio.ErrDirectUnsupported) {
		t.Error(err)
	}
	if err := lease.Release(); err != nil {
		t.Error(err)
	}
}

// A disk that is torn away ends its user at the first request that fails, before the guest has noticed.
func TestTornAway(t *testing.T) {
	for name, tear := range map[string]func(path string) error{
		"node gone": os.Remove,
		"size 0":    func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			r := devices.NewRegistry(true)
			r.SetOpen(func(path string, o blockio.Options) (blockio.Device, error) {
				device, err := blockio.Open(path, o)
				return blockio.NewFaulty(device, blockio.Rule{Err: unix.EIO}), err
			})
			path := image(t, 8192)
			r.Plug(4, path, false)
			ctx, cancel := context.WithCancelCause(t.Context())
			leases, err := r.Acquire("task", cancel, 4)
			if err != nil {
				t.Fatal(err)
			}
			device, err := leases[0].OpenTarget()
			if err != nil {
				t.Fatal(err)
			}
			operations := map[string]func() error{
				"read":  func() error { _, err := device.ReadAt(make([]byte, 512), 0); return err },
				"write": func() error { _, err := device.WriteAt(make([]byte, 512), 0); return err },
				"zero":  func() error { return device.WriteZeroes(0, 512) },
				"flush": device.Flush,
			}
			for what, operation := range operations {
				if err := operation(); !errors.Is(err, unix.EIO) || errors.Is(err, devices.ErrUnplugged) {
					t.Errorf("%s of a bad disk: %v, want EIO alone", what, err)
				}
			}
			if ctx.Err() != nil {
				t.Fatal("a bad disk that is still there ended its user as unplugged")
			}
			if err := tear(path); err != nil {
				t.Fatal(err)
			}
			for what, operation := range operations {
				if err := operation(); !errors.Is(err, unix.EIO) || !errors.Is(err, devices.ErrUnplugged) {
					t.Errorf("%s: %v, want EIO and ErrUnplugged", what, err)
				}
			}
			if cause := context.Cause(ctx); !errors.Is(cause, devices.ErrUnplugged) {
				t.Errorf("cause is %v, want ErrUnplugged", cause)
			}
			if err := leases[0].Release(); !errors.Is(err, devices.ErrUnplugged) {
				t.Errorf("release: %v, want ErrUnplugged, as the flush failed", err)
			}
			r.Unplug(4)
			if list := r.List(); len(list) != 0 {
				t.Errorf("disks are %+v, want none", list)
			}
		})
	}
}
