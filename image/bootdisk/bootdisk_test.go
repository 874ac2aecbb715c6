package bootdisk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs"

	"github.com/understudy-dr/understudy/image/bootdisk"
)

const sector = 512

// contents has parts of sizes that are no multiples of anything.
func contents() bootdisk.Contents {
	boot := bytes.Repeat([]byte{0xb0}, sector)
	return bootdisk.Contents{
		BootSector: boot, Core: bytes.Repeat([]byte{0xc0}, 3*sector+100), EFI: bytes.Repeat([]byte("EFI application "), 1000),
		Kernel: bytes.Repeat([]byte("kernel "), 300_001), Initramfs: bytes.Repeat([]byte("initramfs"), 77_777),
	}
}

func write(t *testing.T, c bootdisk.Contents) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "boot.raw")
	if err := bootdisk.Write(path, c); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestFiles(t *testing.T) {
	c := contents()
	disk, err := diskfs.Open(write(t, c), diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = disk.Close() }() // read-only
	esp, err := disk.GetFilesystem(2)
	if err != nil {
		t.Fatal(err)
	}
	if label := strings.TrimSpace(esp.Label()); label != bootdisk.Label {
		t.Errorf("the label is %q", label)
	}
	for name, want := range map[string][]byte{
		"/EFI/BOOT/BOOTX64.EFI": c.EFI, "/" + bootdisk.Kernel: c.Kernel, "/" + bootdisk.Initramfs: c.Initramfs,
	} {
		f, err := esp.OpenFile(name, os.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has %d bytes, %v; want %d", name, len(got), err, len(want))
		}
	}
}

// What the BIOS reads: a boot sector that loads core.img, whose first sector loads the rest.
func TestBIOS(t *testing.T) {
	c := contents()
	disk := read(t, write(t, c))
	master, core := disk[:sector], disk[2048*sector:]
	little := binary.LittleEndian
	if got := little.Uint64(master[0x5c:]); got != 2048 {
		t.Errorf("the boot sector loads from sector %d", got)
	}
	if master[0x64] != 0xff || master[0x66] != 0x90 || master[0x67] != 0x90 || master[510] != 0x55 || master[511] != 0xaa {
		t.Errorf("the boot sector is % x", master[0x60:0x70])
	}
	if master[0] != 0xb0 || master[439] != 0xb0 || master[440] == 0xb0 {
		t.Error("the boot code does not end where the table begins")
	}
	if kind := master[446+4]; kind != 0xee {
		t.Errorf("the first partition of the MBR has the type %#x", kind)
	}
	if start, length, segment := little.Uint64(core[500:]), little.Uint16(core[508:]), little.Uint16(core[510:]); start != 2049 || length != 3 || segment != 0x820 {
		t.Errorf("core.img loads %d sectors from %d to %#x", length, start, segment)
	}
	if !bytes.Equal(core[sector:len(c.Core)], c.Core[sector:]) || core[len(c.Core)] != 0 {
		t.Error("core.img is not whole")
	}
}

// What UEFI reads: two tables with right checksums that name the ESP.
func TestTables(t *testing.T) {
	disk := read(t, write(t, contents()))
	if len(disk)%bootdisk.Granularity != 0 {
		t.Errorf("the disk has %d bytes", len(disk))
	}
	last := len(disk)/sector - 1
	little := binary.LittleEndian
	for _, at := range []int{1, last} {
		header := bytes.Clone(disk[at*sector : at*sector+92])
		sum := little.Uint32(header[16:])
		little.PutUint32(header[16:], 0)
		if string(header[:8]) != "EFI PART" || crc32.ChecksumIEEE(header) != sum {
			t.Errorf("sector %d holds no sound header", at)
		}
		array := int(little.Uint64(header[72:])) * sector
		entries := disk[array : array+128*128]
		if crc32.ChecksumIEEE(entries) != little.Uint32(header[88:]) {
			t.Errorf("the entries of sector %d are not sound", at)
		}
		// The first three fields of an ESP's type in mixed byte order: c12a7328-f81f-11d2-…
		esp := entries[128:256]
		if !bytes.Equal(esp[:8], []byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11}) {
			t.Errorf("the second partition has the type % x", esp[:16])
		}
		if first, end := little.Uint64(esp[32:]), little.Uint64(esp[40:]); first != 4096 || end != uint64(last-33) {
			t.Errorf("the ESP takes sectors %d to %d of %d", first, end, last)
		}
	}
}

func TestReproducible(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	first := read(t, write(t, contents()))
	time.Sleep(2100 * time.Millisecond) // FAT counts in steps of two seconds
	t.Setenv("SOURCE_DATE_EPOCH", "")
	t.Setenv("TZ", "Asia/Tokyo")
	if second := read(t, write(t, contents())); !bytes.Equal(first, second) {
		t.Error("two disks of the same contents differ")
	}
}

func TestSizes(t *testing.T) {
	for name, kernel := range map[string]int{"tiny": 1, "as Debian's": 14 << 20, "beyond 32 MiB": 40 << 20} {
		t.Run(name, func(t *testing.T) {
			c := contents()
			c.Kernel = make([]byte, kernel)
			c.Kernel[kernel-1] = 1
			info, err := os.Stat(write(t, c))
			if err != nil {
				t.Fatal(err)
			}
			if spare := info.Size() - int64(kernel); info.Size()%bootdisk.Granularity != 0 || spare > 12<<20 {
				t.Errorf("%d bytes for a kernel of %d", info.Size(), kernel)
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*bootdisk.Contents)
		want   string
	}{
		"short boot sector": {func(c *bootdisk.Contents) { c.BootSector = c.BootSector[:100] }, "boot.img"},
		"no core":           {func(c *bootdisk.Contents) { c.Core = nil }, "core.img"},
		"large core":        {func(c *bootdisk.Contents) { c.Core = make([]byte, 1<<20+1) }, "core.img"},
		"no EFI loader":     {func(c *bootdisk.Contents) { c.EFI = nil }, "EFI"},
		"no kernel":         {func(c *bootdisk.Contents) { c.Kernel = nil }, "kernel"},
		"no initramfs":      {func(c *bootdisk.Contents) { c.Initramfs = nil }, "initramfs"},
		"too much":          {func(c *bootdisk.Contents) { c.Initramfs = make([]byte, 256<<20) }, "at most"},
	} {
		t.Run(name, func(t *testing.T) {
			c := contents()
			test.change(&c)
			path := filepath.Join(t.TempDir(), "boot.raw")
			if err := bootdisk.Write(path, c); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v", err)
			}
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a file was left: %v", err)
			}
		})
	}
}
