package grub

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Packages are what Make needs in its tree: the tool and its libraries, then the modules for either firmware.
var Packages = []string{
	"grub-common", "libc6", "libdevmapper1.02.1", "liblzma5", "libselinux1", "libudev1", "libpcre2-8-0",
	"grub-pc-bin", "grub-efi-amd64-bin",
}

// Options says what the loaders start.
type Options struct {
	// Label is the FAT volume label of the file system that has the kernel.
	Label string
	// Kernel and Initramfs are paths there; CommandLine is the kernel's.
	Kernel, Initramfs, CommandLine string
}

// Loaders are the parts that a boot disk needs.
type Loaders struct {
	BootSector, Core, EFI []byte
}

// firmware is what differs between the two.
type firmware struct {
	format  string
	modules []string
	setup   string
}

var (
	// With no serial port GRUB says so and goes on with the screen alone.
	bios = firmware{
		format:  "i386-pc",
		modules: []string{"biosdisk", "serial", "terminal"},
		setup:   "serial --unit=0 --speed=115200\nterminal_output --append serial\n",
	}
	// UEFI's own console covers what the firmware knows, the serial line too. Without the firmware's graphics the kernel
	// would start with a dark screen.
	efi = firmware{format: "x86_64-efi", modules: []string{"efi_gop"}}
)

// common modules: to find the file system, to load Linux, and to give up.
var common = []string{"part_gpt", "fat", "search_label", "linux", "echo", "sleep", "halt"}

// earlyConfig is read by GRUB's rescue parser, which knows neither conditions nor quoting beyond '…': a line that fails
// says why, and the next one follows. Behind 'boot' comes what should never run.
func earlyConfig(f firmware, o Options) (string, error) {
	for _, value := range []string{o.Label, o.Kernel, o.Initramfs, o.CommandLine} {
		if value == "" || strings.ContainsAny(value, "'\"\\$;\n\r\x00") {
			return "", fmt.Errorf("grub: %q cannot stand in GRUB's configuration", value)
		}
	}
	return f.setup +
		"search.fs_label " + o.Label + " root\n" +
		"linux " + o.Kernel + " " + o.CommandLine + "\n" +
		"initrd " + o.Initramfs + "\n" +
		"boot\n" +
		"echo 'The delegate could not be started from its disk. Deploy it again: understudy delegate deploy --upgrade'\n" +
		"sleep 10\n" +
		"halt\n", nil
}

// Make builds the loaders from an unpacked tree of Packages.
func Make(ctx context.Context, tree string, o Options) (Loaders, error) {
	boot, err := os.ReadFile(filepath.Join(tree, "usr/lib/grub/i386-pc/boot.img"))
	if err != nil {
		return Loaders{}, fmt.Errorf("grub: %w", err)
	}
	core, err := mkimage(ctx, tree, bios, o)
	if err != nil {
		return Loaders{}, err
	}
	application, err := mkimage(ctx, tree, efi, o)
	if err != nil {
		return Loaders{}, err
	}
	return Loaders{BootSector: boot, Core: core, EFI: application}, nil
}

func mkimage(ctx context.Context, tree string, f firmware, o Options) (image []byte, err error) {
	config, err := earlyConfig(f, o)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "understudy-grub-")
	if err != nil {
		return nil, fmt.Errorf("grub: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	early, output := filepath.Join(dir, "early.cfg"), filepath.Join(dir, "image")
	if err := os.WriteFile(early, []byte(config), 0o644); err != nil {
		return nil, fmt.Errorf("grub: %w", err)
	}
	const triplet = "x86_64-linux-gnu"
	libraries := []string{filepath.Join(tree, "lib", triplet), filepath.Join(tree, "usr/lib", triplet)}
	arguments := []string{
		"--library-path", strings.Join(libraries, ":"), filepath.Join(tree, "usr/bin/grub-mkimage"),
		"-d", filepath.Join(tree, "usr/lib/grub", f.format), "-O", f.format, "-o", output, "-p", "/", "-c", early,
	}
	arguments = append(append(arguments, f.modules...), common...)
	command := exec.CommandContext(ctx, filepath.Join(libraries[0], "ld-linux-x86-64.so.2"), arguments...)
	command.Env = []string{"LC_ALL=C", "PATH=/nonexistent"}
	command.WaitDelay = time.Second
	if said, err := command.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("grub: grub-mkimage for %s: %w: %.2000s", f.format, err, said)
	}
	image, err = os.ReadFile(output)
	if err != nil {
		return nil, fmt.Errorf("grub: %w", err)
	}
	return image, nil
}
