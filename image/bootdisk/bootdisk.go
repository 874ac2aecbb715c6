package bootdisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/disk"
	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/partition/gpt"
)

const (
	sector = 512
	// Granularity divides the size of every disk: VHD rounds to it (xapi-facts §10.3).
	Granularity = 2 << 20
	// Label is the ESP's volume label, by which GRUB finds it.
	Label = "UNDERSTUDY"
	// Kernel and Initramfs are the files that GRUB starts, below the ESP's root.
	Kernel    = "vmlinuz"
	Initramfs = "initrd.img"

	coreFirst = 2048
	espFirst  = 4096
	// tail is what the second GPT takes: 32 sectors of entries and its header.
	tail = 33
	// smallestESP has more than the 4085 clusters that make a FAT16, largestESP as much as 4 KiB clusters allow.
	smallestESP = 8 << 20
	largestESP  = 256 << 20
	// epoch dates every file: 1 January 1980, the first day of FAT.
	epoch = 315532800
)

// Identifiers need to be unique on one machine only, and there is one such disk a machine.
const (
	diskGUID = "6e5a3c52-6a0e-4d0c-9e2b-7b1f0b7a1d01"
	biosGUID = "6e5a3c52-6a0e-4d0c-9e2b-7b1f0b7a1d02"
	espGUID  = "6e5a3c52-6a0e-4d0c-9e2b-7b1f0b7a1d03"
)

// Contents is what the disk boots.
type Contents struct {
	// BootSector and Core start GRUB from BIOS: boot.img, and core.img for i386-pc.
	BootSector, Core []byte
	// EFI is GRUB as an application for 64-bit UEFI.
	EFI []byte
	// Kernel and Initramfs are what both start.
	Kernel, Initramfs []byte
}

// Write makes the disk in a new file at path.
func Write(path string, c Contents) error {
	master, core, err := linkLoader(c.BootSector, c.Core)
	if err != nil {
		return err
	}
	if len(c.EFI) == 0 || len(c.Kernel) == 0 || len(c.Initramfs) == 0 {
		return errors.New("bootdisk: the EFI loader, the kernel and the initramfs are all needed")
	}
	size, err := sizeOf(c)
	if err != nil {
		return err
	}
	if err := writeDisk(path, size, c, master, core); err != nil {
		return errors.Join(fmt.Errorf("bootdisk: %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// sizeOf returns the disk's size: what the files take, and FAT and directories on top.
func sizeOf(c Contents) (int64, error) {
	const cluster = 4 << 10 // the largest that go-diskfs chooses below largestESP
	esp := int64(512 << 10)
	for _, file := range [][]byte{c.EFI, c.Kernel, c.Initramfs} {
		esp += (int64(len(file)) + cluster - 1) / cluster * cluster
	}
	esp = max(esp+esp/128, smallestESP)
	if esp > largestESP {
		return 0, fmt.Errorf("bootdisk: kernel and initramfs need an ESP of %d bytes; at most %d are possible", esp, int64(largestESP))
	}
	size := espFirst*sector + esp + tail*sector
	return (size + Granularity - 1) / Granularity * Granularity, nil
}

func writeDisk(path string, size int64, c Contents, master, core []byte) (err error) {
	// go-diskfs takes the date of its directory entries from here alone.
	if err := os.Setenv("SOURCE_DATE_EPOCH", strconv.Itoa(epoch)); err != nil {
		return err
	}
	d, err := diskfs.Create(path, size, diskfs.SectorSize512)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	lastUsable := uint64(size/sector - tail - 1)
	err = d.Partition(&gpt.Table{
		LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true, GUID: diskGUID,
		Partitions: []*gpt.Partition{
			{Index: 1, Start: coreFirst, End: espFirst - 1, Type: gpt.BIOSBoot, Name: "BIOS boot", GUID: biosGUID},
			{Index: 2, Start: espFirst, End: lastUsable, Type: gpt.EFISystemPartition, Name: "EFI system", GUID: espGUID},
		},
	})
	if err != nil {
		return err
	}
	if err := writeESP(d, c); err != nil {
		return err
	}
	raw, err := d.Backend.Writable()
	if err != nil {
		return err
	}
	_, err = raw.WriteAt(master, 0)
	_, err2 := raw.WriteAt(core, coreFirst*sector)
	return errors.Join(err, err2)
}

func writeESP(d *disk.Disk, c Contents) error {
	esp, err := d.CreateFilesystem(disk.FilesystemSpec{Partition: 2, FSType: filesystem.TypeFat16, VolumeLabel: Label, Reproducible: true})
	if err != nil {
		return err
	}
	if err := esp.Mkdir("/EFI/BOOT"); err != nil {
		return err
	}
	for _, file := range []struct {
		name    string
		content []byte
	}{{"/EFI/BOOT/BOOTX64.EFI", c.EFI}, {"/" + Kernel, c.Kernel}, {"/" + Initramfs, c.Initramfs}} {
		f, err := esp.OpenFile(file.name, os.O_CREATE|os.O_RDWR)
		if err != nil {
			return err
		}
		n, err := f.Write(file.content)
		if err == nil && n < len(file.content) {
			err = io.ErrShortWrite
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("%s: %w", file.name, err)
		}
	}
	return nil
}

// linkLoader returns the boot code of the MBR and the core image that it loads, each told where the other's rest lies.
func linkLoader(boot, core []byte) (master, linked []byte, err error) {
	const (
		bootCode      = 440  // the rest of the MBR is the disk's signature and the table
		kernelSector  = 0x5c // boot.S: where core.img begins
		bootDrive     = 0x64 // boot.S: 0xff is 'the one the BIOS has booted from'
		driveCheck    = 0x66 // boot.S: a jump that grub-install replaces by no-ops for hard disks
		firstBlock    = 500  // diskboot.S: the list of blocks that its first sector loads: start,
		firstLength   = 508  // number of sectors,
		firstSegment  = 510  // and where to
		loadedSegment = 0x820
	)
	if len(boot) != sector {
		return nil, nil, fmt.Errorf("bootdisk: boot.img has %d bytes, not %d", len(boot), sector)
	}
	sectors := (len(core) + sector - 1) / sector
	if sectors < 2 || sectors > espFirst-coreFirst {
		return nil, nil, fmt.Errorf("bootdisk: core.img has %d bytes; 2 to %d sectors fit", len(core), espFirst-coreFirst)
	}
	master = append([]byte(nil), boot[:bootCode]...)
	binary.LittleEndian.PutUint64(master[kernelSector:], coreFirst)
	master[bootDrive] = 0xff
	master[driveCheck], master[driveCheck+1] = 0x90, 0x90
	linked = make([]byte, sectors*sector)
	copy(linked, core)
	binary.LittleEndian.PutUint64(linked[firstBlock:], coreFirst+1)
	binary.LittleEndian.PutUint16(linked[firstLength:], uint16(sectors-1))
	binary.LittleEndian.PutUint16(linked[firstSegment:], loadedSegment)
	return master, linked, nil
}
