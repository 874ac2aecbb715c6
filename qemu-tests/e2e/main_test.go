//go:build e2e

package e2e_test

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/lan"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/qemu"
)

// Paths of the source tree.
var root, image, consoles string

func TestMain(m *testing.M) {
	code, err := prepare(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func prepare(m *testing.M) (int, error) {
	// An emulated machine keeps a processor busy while it boots.
	if err := flag.Set("test.parallel", "2"); err != nil {
		return 0, err
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return 0, fmt.Errorf("finding the source tree: %w", err)
	}
	root = strings.TrimSpace(string(out))
	image, consoles = filepath.Join(root, "build/image"), filepath.Join(root, "build/consoles")
	if _, err := os.Stat(filepath.Join(image, "abd.xva")); err != nil {
		return 0, fmt.Errorf("the delegate's image is not built: run make image: %w", err)
	}
	return m.Run(), nil
}

// folder makes a folder for a test on a real disk, unlike many a /tmp: delegates use direct I/O. When the test fails, the
// folders of its machines are kept in build/consoles.
func folder(t testing.TB) string {
	t.Helper()
	name := strings.ReplaceAll(t.Name(), "/", "-")
	dir, err := os.MkdirTemp(filepath.Join(root, "build"), "e2e-"+name+"-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			keep(t, dir, filepath.Join(consoles, name))
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// keep copies the logs of all machines below a folder.
func keep(t testing.TB, dir, to string) {
	if err := os.RemoveAll(to); err != nil {
		t.Error(err)
	}
	logs, err := filepath.Glob(filepath.Join(dir, "machines*", "*", "*.log"))
	if err != nil {
		t.Error(err)
	}
	for _, path := range logs {
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			t.Error(err)
			continue
		}
		content, err := os.ReadFile(path)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(to, relative)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, relative), content, 0o644)
		}
		if err != nil {
			t.Error(err)
		}
	}
	t.Logf("the consoles are in %s", to)
}

var subnet = netip.MustParsePrefix("10.77.0.0/24")

// network makes a network. Its socket needs a short path.
func network(t testing.TB) *lan.LAN {
	t.Helper()
	dir, err := os.MkdirTemp("", "us-lan-")
	if err != nil {
		t.Fatal(err)
	}
	l, err := lan.New(subnet, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return l
}

// direct is the image's kernel, started without firmware.
func direct(t testing.TB) *qemu.Direct {
	t.Helper()
	line, err := os.ReadFile(filepath.Join(image, "cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	return &qemu.Direct{
		Kernel: filepath.Join(image, "vmlinuz"), Initramfs: filepath.Join(image, "initramfs.img"), CommandLine: strings.TrimSpace(string(line)),
	}
}

// limit bounds a step. Machines are emulated, and others may use the computer.
func limit(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
