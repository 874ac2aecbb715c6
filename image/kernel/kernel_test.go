package kernel_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/image/kernel"
	"github.com/understudy-dr/understudy/image/kernel/kerneltest"
)

const release = "6.1.0-test"

func open(t testing.TB, builtin []string, modules map[string]string) *kernel.Kernel {
	t.Helper()
	tree := t.TempDir()
	if err := kerneltest.Write(tree, release, []byte("bzImage"), builtin, modules); err != nil {
		t.Fatal(err)
	}
	k, err := kernel.Open(tree)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestOpen(t *testing.T) {
	k := open(t, nil, nil)
	if content, err := os.ReadFile(k.Image); k.Release != release || err != nil || string(content) != "bzImage" {
		t.Errorf("%s, %q, %v", k.Release, content, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	empty := t.TempDir()
	if _, err := kernel.Open(empty); err == nil || !strings.Contains(err.Error(), "0 kernels") {
		t.Errorf("of an empty tree: %v", err)
	}
	two := t.TempDir()
	if err := errors.Join(kerneltest.Write(two, "1", nil, nil, nil), kerneltest.Write(two, "2", nil, nil, nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := kernel.Open(two); err == nil || !strings.Contains(err.Error(), "2 kernels") {
		t.Errorf("of two kernels: %v", err)
	}
	for _, missing := range []string{"boot/vmlinuz-" + release, "lib/modules/" + release + "/modules.builtin"} {
		tree := t.TempDir()
		if err := errors.Join(kerneltest.Write(tree, release, nil, nil, nil), os.Remove(filepath.Join(tree, missing))); err != nil {
			t.Fatal(err)
		}
		if _, err := kernel.Open(tree); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("without %s: %v", missing, err)
		}
	}
}

func TestSelect(t *testing.T) {
	k := open(t, []string{"kernel/net/ipv6/ipv6.ko", "kernel/lib/crc-core.ko"}, map[string]string{
		"kernel/drivers/net/virtio_net.ko":        "license=GPL\x00depends=virtio_ring,virtio,net_failover\x00alias=depends=nothing",
		"kernel/drivers/net/net_failover.ko":      "depends=failover",
		"kernel/net/core/failover.ko":             "depends=",
		"kernel/drivers/virtio/virtio.ko":         "depends=",
		"kernel/drivers/virtio/virtio_ring.ko":    "depends=virtio",
		"kernel/drivers/block/xen-blkfront.ko":    "depends=crc_core",
		"kernel/drivers/block/soft.ko":            "softdep=pre: accelerated absent post: later",
		"kernel/crypto/accelerated.ko":            "depends=",
		"kernel/drivers/block/later.ko":           "depends=",
		"kernel/drivers/block/unwanted-module.ko": "depends=",
	})
	modules, err := k.Select("xen_blkfront", "ipv6", "virtio-net", "virtio_ring", "soft")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range modules {
		names = append(names, m.Name)
		if len(m.Content) == 0 {
			t.Errorf("%s has no content", m.Name)
		}
	}
	want := []string{"xen_blkfront", "virtio", "virtio_ring", "failover", "net_failover", "virtio_net", "accelerated", "soft"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	wantDep := `kernel/drivers/block/xen-blkfront.ko:
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/net/core/failover.ko:
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko kernel/net/core/failover.ko
kernel/crypto/accelerated.ko:
kernel/drivers/block/soft.ko:
`
	if diff := cmp.Diff(wantDep, string(kernel.Dependencies(modules))); diff != "" {
		t.Error(diff)
	}
}

func TestSelectRefuses(t *testing.T) {
	k := open(t, nil, map[string]string{
		"kernel/a.ko": "depends=b", "kernel/b.ko": "depends=a", "kernel/needy.ko": "depends=absent",
		"kernel/packed.ko.xz": "depends=",
	})
	for name, want := range map[string]string{"a": "circle", "packed": "compressed", "needy": "absent (needed by needy)"} {
		if _, err := k.Select(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := k.Select("absent"); !errors.Is(err, kernel.ErrNoModule) {
		t.Errorf("the error is %v", err)
	}
	tree := t.TempDir()
	path := filepath.Join(tree, "lib/modules", release, "kernel/text.ko")
	err := errors.Join(kerneltest.Write(tree, release, nil, nil, nil), os.WriteFile(path, []byte("no ELF"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	if k, err = kernel.Open(tree); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Select("text"); err == nil || !strings.Contains(err.Error(), "not a module") {
		t.Errorf("of a text file: %v", err)
	}
}

// In any graph without circles, every module comes after all that it needs, once, and modules.dep names the whole closure.
func TestSelectIsALoadingOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(r, "modules")
		name := func(i int) string { return "m" + string(rune('a'+i)) }
		modules, needs := map[string]string{}, map[string][]string{}
		for i := range n {
			var depends []string
			for j := range i {
				if rapid.Bool().Draw(r, "edge") {
					depends = append(depends, name(j))
				}
			}
			needs[name(i)] = depends
			modules["kernel/"+name(i)+".ko"] = "depends=" + strings.Join(depends, ",")
		}
		want := name(rapid.IntRange(0, n-1).Draw(r, "wanted"))
		selected, err := open(t, nil, modules).Select(want, want)
		if err != nil {
			r.Fatal(err)
		}
		seen := map[string]bool{}
		for _, m := range selected {
			if seen[m.Name] {
				r.Fatalf("%s comes twice", m.Name)
			}
			for _, need := range needs[m.Name] {
				if !seen[need] {
					r.Fatalf("%s comes before %s", m.Name, need)
				}
			}
			seen[m.Name] = true
		}
		if !seen[want] {
			r.Fatalf("%s is not there", want)
		}
		last := strings.TrimSpace(string(kernel.Dependencies(selected)))
		last = last[strings.LastIndexByte(last, '\n')+1:]
		if _, paths, _ := strings.Cut(last, ":"); len(strings.Fields(paths)) != len(selected)-1 {
			r.Fatalf("%q does not name the other %d", last, len(selected)-1)
		}
	})
}

// A module file decides nothing but names: whatever it holds, Select answers or refuses.
func FuzzModule(f *testing.F) {
	f.Add(kerneltest.Module("depends=a,b\x00softdep=pre: c"))
	f.Add(kerneltest.Module(""))
	f.Add([]byte("\x7fELF"))
	tree := f.TempDir()
	if err := kerneltest.Write(tree, release, nil, nil, map[string]string{"kernel/x.ko": ""}); err != nil {
		f.Fatal(err)
	}
	k, err := kernel.Open(tree)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(filepath.Join(tree, "lib/modules", release, "kernel/x.ko"), content, 0o644); err != nil {
			t.Fatal(err)
		}
		if modules, err := k.Select("x"); err == nil && len(modules) != 1 {
			t.Errorf("%d modules", len(modules))
		}
	})
}
