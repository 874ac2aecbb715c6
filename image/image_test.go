package image_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/image"
	"github.com/understudy-dr/understudy/image/debian"
	"github.com/understudy-dr/understudy/image/debian/debtest"
	"github.com/understudy-dr/understudy/image/grub"
	"github.com/understudy-dr/understudy/image/grub/grubtest"
	"github.com/understudy-dr/understudy/image/kernel/kerneltest"
	"github.com/understudy-dr/understudy/image/slim"
	"github.com/understudy-dr/understudy/image/xva"
)

const copyright = "Format: 1.0\n\nFiles: debian/*\nLicense: GPL-2+\n\nFiles: *\nCopyright: many\nLicense: GPL-2\n"

// source makes a product's source with a tiny delegate, a lock, and the packages that it names in a cache: nothing has to
// be fetched, and apt is not needed.
func source(t *testing.T) image.Options {
	t.Helper()
	root := t.TempDir()
	archive := debian.Archive{Dir: filepath.Join(root, "cache")}
	write(t, root, "go.mod", "module example.org/product\n\ngo 1.26\n")
	write(t, root, "VERSION", "1.2.3\n")
	write(t, root, "cmd/abd/main.go", "package main\n\nvar version string\n\nfunc main() { println(version) }\n")

	tree := kernelTree(t, []byte("kernel"))
	var lock image.Lock
	var err error
	if lock.Kernel, err = debtest.Put(archive, "linux-image-test", tree); err != nil {
		t.Fatal(err)
	}
	if lock.KernelSource, err = debtest.Put(archive, slim.Package, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	for _, name := range grub.Packages {
		tree := t.TempDir()
		write(t, tree, "usr/share/doc/"+name+"/copyright", strings.ReplaceAll(copyright, "GPL-2\n", "GPL-3+\n"))
		if name == "grub-common" {
			if err := grubtest.Write(tree); err != nil {
				t.Fatal(err)
			}
		}
		p, err := debtest.Put(archive, name, tree)
		if err != nil {
			t.Fatal(err)
		}
		lock.Grub = append(lock.Grub, p)
	}
	write(t, root, "image/placeholder", "")
	if err := lock.Write(filepath.Join(root, image.LockFile)); err != nil {
		t.Fatal(err)
	}
	return image.Options{Root: root, Out: filepath.Join(root, "build/image"), Archive: archive}
}

// kernelTree has the modules that an image loads, or holds them built in.
func kernelTree(t *testing.T, content []byte) string {
	t.Helper()
	tree := t.TempDir()
	modules := map[string]string{}
	for _, name := range []string{
		"xen-blkfront", "xen-netfront", "virtio_pci", "virtio_blk", "virtio_console", "qemu_fw_cfg", "xen_wdt", "softdog", "sch_netem",
	} {
		modules["kernel/drivers/"+name+".ko"] = "depends="
	}
	modules["kernel/drivers/virtio_net.ko"] = "depends=virtio_ring"
	modules["kernel/drivers/virtio_ring.ko"] = "depends="
	if err := kerneltest.Write(tree, "6.1.0-test", content, []string{"kernel/net/ipv6.ko", "kernel/net/af_packet.ko"}, modules); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"linux-image-test", slim.Package} {
		write(t, tree, "usr/share/doc/"+name+"/copyright", copyright)
	}
	return tree
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

var versionForm = regexp.MustCompile(`^1\.2\.3-[0-9a-f]{8}$`)

func TestBuild(t *testing.T) {
	o := source(t)
	result, err := image.Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var contents image.Contents
	if err := json.Unmarshal(read(t, o.Out, image.FileContents), &contents); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(result.Contents, contents); diff != "" {
		t.Errorf("contents.json: %s", diff)
	}
	disk, file := read(t, o.Out, image.FileDisk), read(t, o.Out, image.FileXVA)
	if !versionForm.MatchString(contents.Version) || contents.Product != "1.2.3" || contents.KernelRelease != "6.1.0-test" {
		t.Errorf("the version is %s of %s with kernel %s", contents.Version, contents.Product, contents.KernelRelease)
	}
	if sum := string(read(t, o.Out, image.FileSum)); sum != digest(file)+"  abd.xva\n" {
		t.Errorf("the digest's file has %q", sum)
	}
	checked, err := xva.Check(bytes.NewReader(file))
	if err != nil || checked.Version != contents.Version || checked.Kind != xva.KindDelegateTemplate {
		t.Errorf("the XVA has the kind %q and version %q: %v", checked.Kind, checked.Version, err)
	}
	if got := content(t, file); !bytes.Equal(got, disk) {
		t.Error("the XVA's disk is not the boot disk")
	}
	if line := string(read(t, o.Out, image.FileCommandLine)); line != image.CommandLine+"\n" || !bytes.Contains(disk, []byte(image.CommandLine)) {
		t.Errorf("the command line is %q", line)
	}
	if !bytes.Contains(disk, read(t, o.Out, image.FileInitramfs)) || !slices.Contains(contents.Modules, "xen_blkfront") || slices.Contains(contents.Modules, "ipv6") || slices.Contains(contents.Modules, "sch_netem") {
		t.Errorf("the disk lacks the initramfs, or the modules are %q", contents.Modules)
	}
	var components []string
	for _, c := range contents.Components {
		components = append(components, c.Kind+" "+c.Name+" "+c.Licence)
	}
	want := []string{"toolchain go BSD-3-Clause", "debian linux-image-test GPL-2", "debian grub-pc-bin GPL-3+", "debian grub-efi-amd64-bin GPL-3+"}
	if diff := cmp.Diff(want, components); diff != "" {
		t.Error(diff)
	}
	if left, _ := filepath.Glob(filepath.Join(o.Out, ".building-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// content puts the disk in an XVA together.
func content(t *testing.T, file []byte) []byte {
	t.Helper()
	r, err := xva.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	disk := make([]byte, r.Disks()[0].Size)
	for {
		chunk, err := r.Next()
		if errors.Is(err, io.EOF) {
			return disk
		}
		if err != nil {
			t.Fatal(err)
		}
		copy(disk[chunk.Offset:], chunk.Data)
	}
}

// The same inputs in other places give the same files.
func TestBuildIsReproducible(t *testing.T) {
	var sums [2]string
	for i := range sums {
		o := source(t)
		if _, err := image.Build(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{image.FileXVA, image.FileContents, image.FileSum, image.FileKernel, image.FileInitramfs, image.FileDisk} {
			sums[i] += name + " " + digest(read(t, o.Out, name)) + "\n"
		}
	}
	if diff := cmp.Diff(sums[0], sums[1]); diff != "" {
		t.Error(diff)
	}
}

// A build that fails leaves what was there before.
func TestBuildFails(t *testing.T) {
	for name, test := range map[string]struct {
		damage func(t *testing.T, o *image.Options)
		want   string
	}{
		"no version":    {func(t *testing.T, o *image.Options) { write(t, o.Root, "VERSION", "newest\n") }, "VERSION"},
		"no lock":       {func(t *testing.T, o *image.Options) { _ = os.Remove(filepath.Join(o.Root, image.LockFile)) }, "lock.json"},
		"broken source": {func(t *testing.T, o *image.Options) { write(t, o.Root, "cmd/abd/main.go", "package main\n") }, "go build"},
		"altered package": {func(t *testing.T, o *image.Options) {
			write(t, o.Archive.Dir, "archives/grub-common_1%3a2.0-1_amd64.deb", "x")
		}, "make image-lock"},
		"a kernel beyond the budget": {func(t *testing.T, o *image.Options) {
			noise := make([]byte, 8<<20+1)
			random := rand.NewChaCha8([32]byte{1})
			_, _ = random.Read(noise) // never fails
			o.KernelTree = kernelTree(t, noise)
		}, "XVA after gzip -6 has"},
	} {
		t.Run(name, func(t *testing.T) {
			o := source(t)
			write(t, o.Out, image.FileXVA, "the one before")
			test.damage(t, &o)
			if _, err := image.Build(t.Context(), o); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v", err)
			}
			files, err := os.ReadDir(o.Out)
			if err != nil || len(files) != 1 || string(read(t, o.Out, image.FileXVA)) != "the one before" {
				t.Errorf("there is %v, %v", files, err)
			}
		})
	}
}

// Builds whose disks differ are told apart, and equal ones are not.
func TestVersionOfBuilds(t *testing.T) {
	versions := map[string]bool{}
	for _, disk := range []string{digest([]byte("a")), digest([]byte("b")), digest([]byte("a"))} {
		version, err := image.ImageVersion("1.2.3", disk)
		if err != nil || !versionForm.MatchString(version) {
			t.Fatalf("%q, %v", version, err)
		}
		versions[version] = true
	}
	if len(versions) != 2 {
		t.Errorf("versions %v", versions)
	}
}
