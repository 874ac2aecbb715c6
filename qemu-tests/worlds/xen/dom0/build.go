package dom0

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/image/debian"
	"github.com/understudy-dr/understudy/image/kernel"
)

// wanted are the packages that make a dom0. The hypervisor is of the release that the folder names in this package and in package
// agent are of.
var wanted = []string{"xen-hypervisor-4.17-amd64", "xen-utils-4.17", "linux-image-amd64", "qemu-system-xen"}

// recipe changes whenever this package makes something else of the same packages.
const recipe = "1"

// Parts are the files that make a dom0. They stay in the cache.
type Parts struct {
	Hypervisor string // multiboot ELF
	Kernel     string // bzImage
	tools      string // compressed cpio
}

// Build makes the parts, or finds them in the cache folder dir.
func Build(ctx context.Context, dir string) (Parts, error) {
	archive := debian.Archive{Dir: filepath.Join(dir, "debian")}
	packages, err := archive.Closure(ctx, wanted...)
	if err != nil {
		return Parts{}, err
	}
	out := filepath.Join(dir, "dom0", key(packages))
	parts := Parts{filepath.Join(out, "xen"), filepath.Join(out, "kernel"), filepath.Join(out, "tools.cpio.zst")}
	if _, err := os.Stat(out); err == nil {
		return parts, nil
	}
	needed := slices.DeleteFunc(packages, func(p debian.Package) bool { return !holdsSomething(p.Name) })
	archives, err := archive.Fetch(ctx, needed)
	if errors.Is(err, debian.ErrGone) {
		// Nothing is locked here: the indices are old, and today's versions will do.
		if err := archive.Update(ctx); err != nil {
			return Parts{}, err
		}
		return Build(ctx, dir)
	} else if err != nil {
		return Parts{}, err
	}
	return parts, assemble(out, archives)
}

// key names what comes out of these packages.
func key(packages []debian.Package) string {
	hash := sha256.New()
	for _, p := range packages {
		_, _ = fmt.Fprintln(hash, p.Name, p.Version, p.SHA256) // a hash takes everything
	}
	_, _ = fmt.Fprintln(hash, recipe, programs, libraries, data, modules)
	return hex.EncodeToString(hash.Sum(nil))[:16]
}

// holdsSomething tells whether a package can hold a file of ours. The rest are Debian's own needs: Python, udev, and so on.
func holdsSomething(name string) bool {
	for _, prefix := range []string{"lib", "xen-", "linux-image-6", "qemu-system-", "seabios", "zlib"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// assemble unpacks the packages beside the folder out, fills it, and lets it appear whole.
func assemble(out string, archives []string) (err error) {
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(out), "building-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	tree, result := filepath.Join(work, "tree"), filepath.Join(work, "result")
	if err := errors.Join(os.Mkdir(tree, 0o755), os.Mkdir(result, 0o755)); err != nil {
		return err
	}
	if err := debian.Extract(tree, archives...); err != nil {
		return err
	}
	if err := gunzip(filepath.Join(tree, "boot/xen-4.17-amd64.gz"), filepath.Join(result, "xen")); err != nil {
		return fmt.Errorf("dom0: the hypervisor: %w", err)
	}
	linux, err := kernel.Open(tree)
	if err != nil {
		return err
	}
	if err := os.Rename(linux.Image, filepath.Join(result, "kernel")); err != nil {
		return err
	}
	records, err := collect(tree, linux)
	if err != nil {
		return fmt.Errorf("dom0: %w", err)
	}
	if err := writeArchive(filepath.Join(result, "tools.cpio.zst"), records); err != nil {
		return fmt.Errorf("dom0: %w", err)
	}
	err = os.Rename(result, out)
	if _, there := os.Stat(out); err != nil && there == nil {
		return nil // another process was faster
	}
	return err
}

func gunzip(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	content, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, content)
	return errors.Join(err, out.Close())
}
