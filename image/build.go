package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/image/bootdisk"
	"github.com/understudy-dr/understudy/image/debian"
	"github.com/understudy-dr/understudy/image/grub"
	"github.com/understudy-dr/understudy/image/initramfs"
	"github.com/understudy-dr/understudy/image/kernel"
	"github.com/understudy-dr/understudy/image/slim"
	"github.com/understudy-dr/understudy/image/xva"
	"github.com/understudy-dr/understudy/netproto"
)

// CommandLine is the kernel's. It speaks on every console that exists: the screen, a serial line, Xen's. Tests of the
// kernel's own ciphers, which a delegate does not use, would cost a fifth of the time to boot; that of the timer's interrupt panics
// where the host is too busy to let the guest run in time, and a virtual timer is not wired wrongly. Parameters of modules are
// passed on by the delegate when it loads them; a front end with 8 ring pages keeps 256 requests in flight (xapi-facts §8.2).
const CommandLine = "console=tty0 console=ttyS0 console=hvc0 quiet loglevel=4 panic=5 no_timer_check cryptomgr.notests xen_blkfront.max_ring_page_order=3"

// modules that PID 1 loads, in this order.
var modules = []string{
	// Xen: disks and the network.
	"xen_blkfront", "xen_netfront",
	// QEMU: the bus, disks, the network, the port to the world, the configuration.
	"virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "qemu_fw_cfg",
	// DHCP and IPv6.
	"af_packet", "ipv6",
	// The hypervisor's watchdog where there is one becomes /dev/watchdog, else the kernel's own.
	"xen_wdt", "softdog",
}

// onDemand are modules that are there for a delegate whose configuration asks for them, and cost no time to boot.
var onDemand = []string{
	"sch_netem", // a thin and long line
}

// Options of a build.
type Options struct {
	// Root is the module's root, with the source, the version and the lock.
	Root string
	// Out is the directory that the files are written to; it is made when it does not exist.
	Out string
	// Archive holds Debian's packages.
	Archive debian.Archive
	// KernelTree, when not empty, is a kernel that SlimTree has made, to be used instead of Debian's.
	KernelTree string
}

// Result of a build.
type Result struct {
	Contents Contents
	Budgets  []Budget
}

// SlimTree returns a tree with the slim kernel, built from the locked source when it is not kept already. Say is told what
// takes long.
func SlimTree(ctx context.Context, root string, archive debian.Archive, say func(string)) (string, error) {
	lock, err := ReadLock(filepath.Join(root, LockFile))
	if err != nil {
		return "", err
	}
	source, err := archive.Fetch(ctx, []debian.Package{lock.KernelSource})
	if err != nil {
		return "", err
	}
	return slim.Tree(ctx, filepath.Join(archive.Dir, "slim-kernels"), source[0], lock.KernelSource, say)
}

// Build makes the image. Nothing changes in Out unless all of it succeeds, budgets included.
func Build(ctx context.Context, o Options) (result Result, err error) {
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return Result{}, fmt.Errorf("image: %w", err)
	}
	work, err := os.MkdirTemp(o.Out, ".building-")
	if err != nil {
		return Result{}, fmt.Errorf("image: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	b := build{Options: o, work: work, new: filepath.Join(work, "new")}
	if err := os.Mkdir(b.new, 0o755); err != nil {
		return Result{}, fmt.Errorf("image: %w", err)
	}
	if err := b.gather(ctx); err != nil {
		return Result{}, err
	}
	if err := b.assemble(ctx); err != nil {
		return Result{}, err
	}
	result, err = b.describe(ctx)
	if err != nil {
		return Result{}, err
	}
	return result, b.publish()
}

// build is one build under way: what is known so far.
type build struct {
	Options
	// work is the scratch directory, new holds the finished files.
	work, new string
	product   string
	lock      Lock
	kernel    *kernel.Kernel
	load      []string
	// version of the image, known when the disk is.
	version string
}

func (b *build) delegate() string { return filepath.Join(b.work, "abd") }
func (b *build) grubTree() string { return filepath.Join(b.work, "grub") }
func (b *build) kernelTree() string {
	if b.KernelTree != "" {
		return b.KernelTree
	}
	return filepath.Join(b.work, "kernel")
}

// gather compiles the delegate and unpacks the packages, side by side.
func (b *build) gather(ctx context.Context) (err error) {
	if b.product, err = readVersion(b.Root); err != nil {
		return err
	}
	if b.lock, err = ReadLock(filepath.Join(b.Root, LockFile)); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return buildDelegate(ctx, b.Root, b.product, b.delegate()) })
	group.Go(func() error {
		if err := b.unpack(ctx, b.grubTree(), b.lock.Grub...); err != nil {
			return err
		}
		if b.KernelTree != "" {
			return nil
		}
		return b.unpack(ctx, b.kernelTree(), b.lock.Kernel)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	b.kernel, err = kernel.Open(b.kernelTree())
	return err
}

func (b *build) unpack(ctx context.Context, tree string, packages ...debian.Package) error {
	archives, err := b.Archive.Fetch(ctx, packages)
	if err != nil {
		return err
	}
	if err := os.Mkdir(tree, 0o755); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	return debian.Extract(tree, archives...)
}

// assemble makes the initramfs, the disk and the XVA.
func (b *build) assemble(ctx context.Context) error {
	initrd, err := b.initramfs()
	if err != nil {
		return err
	}
	image, err := os.ReadFile(b.kernel.Image)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	loaders, err := grub.Make(ctx, b.grubTree(), grub.Options{
		Label: bootdisk.Label, Kernel: "/" + bootdisk.Kernel, Initramfs: "/" + bootdisk.Initramfs, CommandLine: CommandLine,
	})
	if err != nil {
		return err
	}
	disk := filepath.Join(b.new, FileDisk)
	err = bootdisk.Write(disk, bootdisk.Contents{
		BootSector: loaders.BootSector, Core: loaders.Core, EFI: loaders.EFI, Kernel: image, Initramfs: initrd,
	})
	if err != nil {
		return err
	}
	about, err := describe(disk)
	if err != nil {
		return err
	}
	b.version, err = imageVersion(b.product, about.SHA256)
	if err != nil {
		return err
	}
	return errors.Join(
		b.file(FileKernel, image), b.file(FileInitramfs, initrd), b.file(FileCommandLine, []byte(CommandLine+"\n")),
		b.xva(disk, about.Size))
}

func (b *build) file(name string, content []byte) error {
	if err := os.WriteFile(filepath.Join(b.new, name), content, 0o644); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	return nil
}

func (b *build) initramfs() ([]byte, error) {
	program, err := os.ReadFile(b.delegate())
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	all := slices.Concat(modules, onDemand)
	selected, err := b.kernel.Select(all...)
	if err != nil {
		return nil, err
	}
	loadable := map[string]bool{}
	for _, m := range selected {
		loadable[m.Name] = true
	}
	var builtin []string
	for _, name := range all {
		switch {
		case !loadable[name]:
			builtin = append(builtin, name)
		case !slices.Contains(onDemand, name):
			b.load = append(b.load, name)
		}
	}
	return initramfs.Build(initramfs.Contents{Init: program, Release: b.kernel.Release, Modules: selected, Load: b.load, Builtin: builtin})
}

func (b *build) xva(disk string, size int64) error {
	content, err := os.Open(disk)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	defer content.Close()
	path := filepath.Join(b.new, FileXVA)
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	appliance := template()
	appliance.Version = b.version
	appliance.Disk = xva.Disk{Name: appliance.Name, Description: "Boot disk of version " + b.version, Size: size, Content: content}
	err = xva.Write(f, appliance)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("image: %s: %w", path, err)
	}
	return nil
}

// template is the VM, without what depends on the disk.
func template() xva.Appliance {
	return xva.Appliance{
		Name:        "Understudy delegate",
		Description: "Reads and writes disks for Understudy. Delegates are cloned from this template and removed by the orchestrator; do not start it.",
		Memory:      memory, VCPUs: virtualCPUs, Tags: []string{"understudy"},
		OtherConfig: map[string]string{keyProtocol: strconv.Itoa(netproto.VersionMajor)},
	}
}

// imageVersion tells builds of one version of the product apart: by the disk, and by what the VM is given.
func imageVersion(product, disk string) (string, error) {
	vm, err := json.Marshal(template())
	if err != nil {
		return "", fmt.Errorf("image: %w", err)
	}
	sum := sha256.Sum256(append(vm, disk...))
	return product + "-" + hex.EncodeToString(sum[:4]), nil
}

// keyProtocol marks which major version of the protocol the image speaks, so that an orchestrator need not boot it to know.
const keyProtocol = "understudy:protocol"

// Names of the files that a build writes.
const (
	FileXVA         = "abd.xva"
	FileSum         = "abd.xva.sha256"
	FileContents    = "contents.json"
	FileKernel      = "vmlinuz"
	FileInitramfs   = "initramfs.img"
	FileDisk        = "boot.raw"
	FileCommandLine = "cmdline"
)

// describe writes the list of contents and the digest, and holds the budgets.
func (b *build) describe(ctx context.Context) (Result, error) {
	c := Contents{Version: b.version, Product: b.product, KernelRelease: b.kernel.Release, CommandLine: CommandLine, Modules: b.load}
	size := map[string]int64{}
	for _, name := range []string{FileXVA, FileDisk, FileKernel, FileInitramfs, FileCommandLine} {
		f, err := describe(filepath.Join(b.new, name))
		if err != nil {
			return Result{}, err
		}
		c.Files = append(c.Files, f)
		size[name] = f.Size
	}
	var err error
	if c.Components, err = b.components(ctx); err != nil {
		return Result{}, err
	}
	compressed, err := compressedSize(filepath.Join(b.new, FileXVA))
	if err != nil {
		return Result{}, err
	}
	budgets := []Budget{
		{Name: "kernel", Bytes: size[FileKernel]},
		{Name: "initramfs", Bytes: size[FileInitramfs], Limit: maxInitramfs},
		{Name: "boot disk", Bytes: size[FileDisk]},
		{Name: "XVA", Bytes: size[FileXVA]},
		{Name: "XVA after gzip -6", Bytes: compressed, Limit: maxCompressed},
	}
	if b.KernelTree != "" {
		budgets[len(budgets)-1].Limit = maxCompressedSlim
	}
	err = errors.Join(check(budgets), c.write(filepath.Join(b.new, FileContents)),
		b.file(FileSum, []byte(c.Files[0].SHA256+"  "+FileXVA+"\n")))
	return Result{Contents: c, Budgets: budgets}, err
}

// components lists what went in. Of GRUB's packages only those with loaders end up on the disk; the rest is its tool.
func (b *build) components(ctx context.Context) ([]Component, error) {
	components, err := delegateComponents(ctx, b.Root, b.delegate())
	if err != nil {
		return nil, err
	}
	system := b.lock.Kernel
	if b.KernelTree != "" {
		system = b.lock.KernelSource
	}
	c, err := debianComponent(b.kernelTree(), system)
	if err != nil {
		return nil, err
	}
	components = append(components, c)
	for _, p := range b.lock.Grub {
		if !strings.HasSuffix(p.Name, "-bin") {
			continue
		}
		c, err := debianComponent(b.grubTree(), p)
		if err != nil {
			return nil, err
		}
		components = append(components, c)
	}
	return components, nil
}

// publish moves the finished files to their place, the XVA's digest last: it vouches for the rest.
func (b *build) publish() error {
	for _, name := range []string{FileKernel, FileInitramfs, FileCommandLine, FileDisk, FileContents, FileXVA, FileSum} {
		if err := os.Rename(filepath.Join(b.new, name), filepath.Join(b.Out, name)); err != nil {
			return fmt.Errorf("image: %w", err)
		}
	}
	return nil
}
