package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"
)

// kernel is what a boot disk boots.
type kernel struct {
	image, initramfs string // files
	commandLine      string
}

// bootLoader is GRUB for UEFI, with its configuration inside: there is no grub.cfg (package image/grub). The loader for BIOS has
// the same one, but compressed.
const bootLoader = "EFI/BOOT/BOOTX64.EFI"

// bootCommands are GRUB's commands: the kernel's file and arguments, the initramfs's file.
var bootCommands = regexp.MustCompile(`\nlinux /(\S+) ([^\n]*)\ninitrd /(\S+)\n`)

// mountKernel mounts the FAT file system of a boot disk, for reading, and finds what it boots; release unmounts it.
func mountKernel(ctx context.Context, serial string) (k kernel, release func(), err error) {
	name, err := awaitDisk(ctx, serial)
	if err != nil {
		return k, nil, err
	}
	dir, err := os.MkdirTemp("/run", "boot-")
	if err != nil {
		return k, nil, err
	}
	if err := mountFAT(ctx, name, dir); err != nil {
		return k, nil, errors.Join(err, os.Remove(dir))
	}
	release = func() { _ = errors.Join(unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir)) } // nothing depends on it
	if k, err = readBootLoader(dir); err != nil {
		release()
		return k, nil, fmt.Errorf("the boot disk: %w", err)
	}
	return k, release, nil
}

// mountFAT mounts the first partition of a disk that is FAT. The kernel reads the partition table some time after the disk has
// come.
func mountFAT(ctx context.Context, disk, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, diskTimeout)
	defer cancel()
	for {
		partitions, err := filepath.Glob("/sys/block/" + disk + "/" + disk + "*")
		if err != nil {
			return err
		}
		var errs []error
		for _, partition := range partitions {
			err := unix.Mount("/dev/"+filepath.Base(partition), dir, "vfat", unix.MS_RDONLY|unix.MS_SILENT, "")
			if err == nil {
				return nil
			}
			errs = append(errs, fmt.Errorf("partition %s: %w", filepath.Base(partition), err))
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("boot disk %s: no FAT file system on %d partitions: %w", disk, len(partitions), context.Cause(ctx)))
			return errors.Join(errs...)
		}
	}
}

// readBootLoader finds what GRUB would load; dir is where its file system is mounted.
func readBootLoader(dir string) (kernel, error) {
	content, err := os.ReadFile(filepath.Join(dir, bootLoader))
	if err != nil {
		return kernel{}, err
	}
	found := bootCommands.FindSubmatch(content)
	if found == nil {
		return kernel{}, fmt.Errorf("%s names no kernel and initramfs", bootLoader)
	}
	return kernel{image: filepath.Join(dir, string(found[1])), commandLine: string(found[2]), initramfs: filepath.Join(dir, string(found[3]))}, nil
}
