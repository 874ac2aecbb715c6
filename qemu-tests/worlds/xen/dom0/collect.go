package dom0

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/understudy-dr/understudy/image/kernel"
)

// programs come with the shared libraries that they need.
var programs = []string{
	"usr/lib/xen-4.17/bin/xl", "usr/lib/xen-4.17/bin/xenstored", "usr/lib/xen-4.17/bin/xenconsoled", "usr/lib/xen-4.17/bin/xen-init-dom0",
	"usr/libexec/xen-qemu-system-i386", // the device model of HVM guests
}

// libraries are loaded by name at run time, so that no program's table of needs has them: without this one xl aborts when it
// ends a thread.
var libraries = []string{"libgcc_s.so.1"}

// data are files and folders that programs read.
var data = []string{
	"usr/lib/xen-4.17/boot/hvmloader", "usr/share/seabios/bios-256k.bin",
	"usr/share/qemu/keymaps", "usr/share/qemu/kvmvapic.bin", "usr/share/qemu/linuxboot.bin", "usr/share/qemu/linuxboot_dma.bin",
}

// modules are what dom0's kernel loads, in this order, each after what it needs.
var modules = []string{
	"xen-privcmd", "xenfs", "xen-evtchn", "xen-gntdev", "xen-gntalloc", "xen-blkback", "xen-netback", "bridge", "e1000",
	"virtio_pci", "virtio_console", "crct10dif_generic", "virtio_scsi", "sd_mod",
	"nls_cp437", "nls_ascii", "vfat", // a boot disk's EFI system partition
}

// libraryDirs are where the loader of shared libraries looks.
var libraryDirs = []string{"lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib/xen-4.17/lib/x86_64-linux-gnu", "usr/lib", "lib"}

// collection is the content of an initramfs in the making.
type collection struct {
	tree    string // of the unpacked packages
	records map[string]cpio.Record
	order   []string
}

// collect gathers what stands in dom0's initramfs beside the agent.
func collect(tree string, linux *kernel.Kernel) ([]cpio.Record, error) {
	c := &collection{tree: tree, records: map[string]cpio.Record{}}
	for _, name := range programs {
		if err := c.addELF(name); err != nil {
			return nil, err
		}
	}
	for _, name := range libraries {
		if err := c.addLibrary(name, "dom0's tools"); err != nil {
			return nil, err
		}
	}
	for _, name := range data {
		if err := c.addTree(name); err != nil {
			return nil, err
		}
	}
	if err := c.addModules(linux); err != nil {
		return nil, err
	}
	for _, name := range []string{"dev", "proc", "run", "sys", "tmp"} {
		c.add(cpio.Directory(name, 0o755))
	}
	c.add(cpio.CharDev("dev/console", 0o600, 5, 1))
	records := make([]cpio.Record, 0, len(c.order))
	for _, name := range c.order {
		records = append(records, c.records[name])
	}
	return records, nil
}

func (c *collection) add(r cpio.Record) {
	if _, there := c.records[r.Name]; !there {
		c.order = append(c.order, r.Name)
	}
	c.records[r.Name] = r
}

// addFile adds a file, and the one that it is a link to.
func (c *collection) addFile(name string) ([]byte, error) {
	full := filepath.Join(c.tree, name)
	info, err := os.Lstat(full)
	if err != nil {
		return nil, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(full)
		if err != nil {
			return nil, err
		}
		c.add(cpio.Symlink(name, target))
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(name), target)
		}
		return c.addFile(strings.TrimPrefix(target, "/"))
	}
	content, err := os.ReadFile(full)
	if err != nil {
		return nil, err
	}
	c.add(cpio.StaticFile(name, string(content), uint64(info.Mode().Perm())))
	return content, nil
}

func (c *collection) addTree(name string) error {
	return filepath.WalkDir(filepath.Join(c.tree, name), func(full string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		relative, err := filepath.Rel(c.tree, full)
		if err != nil {
			return err
		}
		_, err = c.addFile(relative)
		return err
	})
}

// addELF adds a program or library and all that it is linked against.
func (c *collection) addELF(name string) error {
	if _, there := c.records[name]; there {
		return nil
	}
	content, err := c.addFile(name)
	if err != nil {
		return err
	}
	file, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, segment := range file.Progs {
		if segment.Type != elf.PT_INTERP {
			continue
		}
		interpreter, err := readAll(segment)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, err := c.addFile(strings.Trim(interpreter, "/\x00")); err != nil {
			return fmt.Errorf("%s: its loader: %w", name, err)
		}
	}
	needs, err := file.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, need := range needs {
		if err := c.addLibrary(need, name); err != nil {
			return err
		}
	}
	return nil
}

func readAll(segment *elf.Prog) (string, error) {
	content := make([]byte, min(segment.Filesz, 4096))
	_, err := segment.ReadAt(content, 0)
	return string(content), err
}

func (c *collection) addLibrary(name, by string) error {
	for _, dir := range libraryDirs {
		candidate := path.Join(dir, name)
		if _, err := os.Lstat(filepath.Join(c.tree, candidate)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return c.addELF(candidate)
	}
	return fmt.Errorf("%s needs the library %s, which is in none of the packages", by, name)
}

// addModules adds kernel modules, and /etc/modules, their paths in the order in which the agent loads them.
func (c *collection) addModules(linux *kernel.Kernel) error {
	selected, err := linux.Select(modules...)
	if err != nil {
		return err
	}
	var list strings.Builder
	for _, m := range selected {
		name := path.Join("lib/modules", linux.Release, m.Path)
		c.add(cpio.StaticFile(name, string(m.Content), 0o444))
		list.WriteString("/" + name + "\n")
	}
	c.add(cpio.StaticFile("etc/modules", list.String(), 0o444))
	return nil
}
