package initramfs_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"github.com/understudy-dr/understudy/image/initramfs"
	"github.com/understudy-dr/understudy/image/kernel"
)

func contents() initramfs.Contents {
	return initramfs.Contents{
		Init:    bytes.Repeat([]byte("program "), 10000),
		Release: "6.1.0-test",
		Modules: []kernel.Module{
			{Name: "virtio", Path: "kernel/drivers/virtio/virtio.ko", Content: []byte("bus")},
			{Name: "virtio_net", Path: "kernel/drivers/net/virtio_net.ko", Depends: []string{"virtio"}, Content: []byte("net")},
		},
		Load: []string{"virtio_net"}, Builtin: []string{"ipv6", "sch_netem"},
	}
}

func build(t *testing.T) []byte {
	t.Helper()
	image, err := initramfs.Build(contents())
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestBuild(t *testing.T) {
	decoder, err := zstd.NewReader(bytes.NewReader(build(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	archive, err := io.ReadAll(decoder)
	if err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(archive)))
	if err != nil {
		t.Fatal(err)
	}
	var listing []string
	content := map[string]string{}
	for _, r := range records {
		listing = append(listing, r.Name)
		if r.ReaderAt != nil {
			text, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
			if err != nil {
				t.Fatal(err)
			}
			content[r.Name] = string(text)
		}
		if r.UID != 0 || r.GID != 0 || r.MTime != 0 {
			t.Errorf("%s has an owner or a time: %+v", r.Name, r.Info)
		}
	}
	const modules = "lib/modules/6.1.0-test"
	// The kernel needs a directory before what it holds.
	want := []string{
		"dev", "dev/console", "dev/null", "etc", "etc/modules", "init", "sbin", "sbin/poweroff", "proc", "run", "sys", "tmp",
		"lib", "lib/modules", modules, modules + "/modules.dep", modules + "/modules.builtin",
		modules + "/kernel", modules + "/kernel/drivers", modules + "/kernel/drivers/virtio", modules + "/kernel/drivers/virtio/virtio.ko",
		modules + "/kernel/drivers/net", modules + "/kernel/drivers/net/virtio_net.ko",
	}
	if diff := cmp.Diff(want, listing); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]string{
		"init": string(contents().Init), "etc/modules": "virtio_net\n", "sbin/poweroff": "/init", modules + "/modules.builtin": "ipv6\nsch_netem\n",
		modules + "/modules.dep":                     "kernel/drivers/virtio/virtio.ko:\nkernel/drivers/net/virtio_net.ko: kernel/drivers/virtio/virtio.ko\n",
		modules + "/kernel/drivers/virtio/virtio.ko": "bus",
	} {
		if content[name] != want {
			t.Errorf("%s is %.100q", name, content[name])
		}
	}
	for _, r := range records {
		switch r.Name {
		case "dev/console":
			if r.Mode != cpio.S_IFCHR|0o600 || r.Rmajor != 5 || r.Rminor != 1 {
				t.Errorf("the console is %+v", r.Info)
			}
		case "init":
			if r.Mode != cpio.S_IFREG|0o555 {
				t.Errorf("init's mode is %o", r.Mode)
			}
		case "sbin/poweroff":
			if r.Mode&cpio.S_IFMT != cpio.S_IFLNK {
				t.Errorf("poweroff's mode is %o", r.Mode)
			}
		}
	}
}

func TestBuildIsReproducible(t *testing.T) {
	if !bytes.Equal(build(t), build(t)) {
		t.Error("two builds differ")
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, change := range map[string]func(*initramfs.Contents){
		"no program":               func(c *initramfs.Contents) { c.Init = nil },
		"no release":               func(c *initramfs.Contents) { c.Release = "" },
		"a release that is a path": func(c *initramfs.Contents) { c.Release = "../6.1" },
	} {
		c := contents()
		change(&c)
		if _, err := initramfs.Build(c); err == nil || !strings.Contains(err.Error(), "initramfs") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
