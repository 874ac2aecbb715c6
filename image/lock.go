package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"

	"github.com/understudy-dr/understudy/image/debian"
	"github.com/understudy-dr/understudy/image/grub"
	"github.com/understudy-dr/understudy/image/slim"
)

// LockFile is where the lock stands, below the module's root.
const LockFile = "image/lock.json"

// Lock names the Debian packages of an image exactly.
type Lock struct {
	// Kernel is the package with the kernel and its modules.
	Kernel debian.Package `json:"kernel"`
	// KernelSource is the package that the slim kernel is built from.
	KernelSource debian.Package `json:"kernel_source"`
	// Grub is what grub.Packages names: loaders, the tool that makes them, and its libraries.
	Grub []debian.Package `json:"grub"`
}

// kernelMeta depends on the newest kernel for virtual machines, whose package carries its version in its name.
const kernelMeta = "linux-image-cloud-amd64"

var kernelName = regexp.MustCompile(`^linux-image-[0-9].*-cloud-amd64$`)

// Renew asks apt for the newest versions. It does not write the lock.
func Renew(ctx context.Context, archive debian.Archive) (Lock, error) {
	if err := archive.Update(ctx); err != nil {
		return Lock{}, err
	}
	all, err := archive.Closure(ctx, kernelMeta)
	if err != nil {
		return Lock{}, err
	}
	var lock Lock
	for _, p := range all {
		if kernelName.MatchString(p.Name) {
			lock.Kernel = p
		}
	}
	if lock.Kernel.Name == "" {
		return Lock{}, fmt.Errorf("image: %s depends on no kernel", kernelMeta)
	}
	rest, err := archive.Resolve(ctx, append([]string{slim.Package}, grub.Packages...)...)
	if err != nil {
		return Lock{}, err
	}
	lock.KernelSource, lock.Grub = rest[0], rest[1:]
	return lock, nil
}

// ReadLock reads and checks a lock file.
func ReadLock(path string) (Lock, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Lock{}, fmt.Errorf("image: %w; 'make image-lock' writes it", err)
	}
	lock, err := parseLock(text)
	if err != nil {
		return Lock{}, fmt.Errorf("image: %s: %w; 'make image-lock' writes it anew", path, err)
	}
	return lock, nil
}

func parseLock(text []byte) (Lock, error) {
	var lock Lock
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&lock); err != nil {
		return Lock{}, err
	}
	if len(lock.Grub) != len(grub.Packages) {
		return Lock{}, fmt.Errorf("%d packages for grub; %d are needed", len(lock.Grub), len(grub.Packages))
	}
	errs := []error{lock.Kernel.Check(), lock.KernelSource.Check()}
	for i, p := range lock.Grub {
		errs = append(errs, p.Check())
		if p.Name != grub.Packages[i] {
			errs = append(errs, fmt.Errorf("package %s stands where %s is needed", p.Name, grub.Packages[i]))
		}
	}
	return lock, errors.Join(errs...)
}

// Write writes a lock file.
func (l Lock) Write(path string) error {
	text, err := json.MarshalIndent(l, "", "\t")
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	return nil
}
