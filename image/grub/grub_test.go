package grub_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/image/grub"
	"github.com/understudy-dr/understudy/image/grub/grubtest"
)

var options = grub.Options{Label: "UNDERSTUDY", Kernel: "/vmlinuz", Initramfs: "/initrd.img", CommandLine: "console=ttyS0 quiet"}

func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := grubtest.Write(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

const common = `search.fs_label UNDERSTUDY root
linux /vmlinuz console=ttyS0 quiet
initrd /initrd.img
boot
echo 'The delegate could not be started from its disk. Deploy it again: understudy delegate deploy --upgrade'
sleep 10
halt
`

func TestMake(t *testing.T) {
	loaders, err := grub.Make(t.Context(), tree(t), options)
	if err != nil {
		t.Fatal(err)
	}
	if len(loaders.BootSector) != 512 {
		t.Errorf("the boot sector has %d bytes", len(loaders.BootSector))
	}
	// The stand-in's image is the configuration, then the arguments without the tree's path.
	const tool = "arguments --library-path /lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu /usr/bin/grub-mkimage -d /usr/lib/grub/"
	const modules = "part_gpt fat search_label linux echo sleep halt"
	for _, test := range []struct {
		name string
		got  []byte
		want string
	}{
		{"BIOS", loaders.Core, "serial --unit=0 --speed=115200\nterminal_output --append serial\n" + common + tool + "i386-pc -O i386-pc -p / biosdisk serial terminal " + modules + "\n"},
		{"UEFI", loaders.EFI, common + tool + "x86_64-efi -O x86_64-efi -p / efi_gop " + modules + "\n"},
	} {
		if diff := cmp.Diff(test.want, string(test.got)); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

// What would end GRUB's line, or begin a word of its own, must not get in.
func TestMakeRefuses(t *testing.T) {
	for _, change := range []func(*grub.Options){
		func(o *grub.Options) { o.Label = "" },
		func(o *grub.Options) { o.Label = "A\nhalt" },
		func(o *grub.Options) { o.Kernel = "/a;halt" },
		func(o *grub.Options) { o.Initramfs = "/$root" },
		func(o *grub.Options) { o.CommandLine = "quiet 'x" },
	} {
		o := options
		change(&o)
		if _, err := grub.Make(t.Context(), tree(t), o); err == nil || !strings.Contains(err.Error(), "cannot stand") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestMakeFails(t *testing.T) {
	if _, err := grub.Make(t.Context(), t.TempDir(), options); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("with an empty tree: %v", err)
	}
	broken := tree(t)
	err := os.WriteFile(filepath.Join(broken, grubtest.Loader), []byte("#!/bin/sh\necho cannot find fat.mod >&2\nexit 1\n"), 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := grub.Make(t.Context(), broken, options); err == nil || !strings.Contains(err.Error(), "cannot find fat.mod") {
		t.Errorf("with a failing tool: %v", err)
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	if _, err := grub.Make(ctx, tree(t), options); !errors.Is(err, enough) {
		t.Errorf("cancelled: %v", err)
	}
}
