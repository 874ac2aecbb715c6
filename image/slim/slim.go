package slim

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ulikunitz/xz"

	"github.com/understudy-dr/understudy/image/debian"
)

// Package is the Debian package with the source.
const Package = "linux-source-6.1"

//go:embed slim.config
var config []byte

// recipe counts changes of how Build builds, other than those of the configuration.
const recipe = "1"

// environment fixes what a kernel tells of its build.
var environment = []string{"LC_ALL=C", "KBUILD_BUILD_TIMESTAMP=Tue Jan  1 00:00:00 UTC 1980", "KBUILD_BUILD_USER=understudy", "KBUILD_BUILD_HOST=understudy", "KBUILD_BUILD_VERSION=1"}

// Tree returns a finished tree below dir, and builds it from the source package's archive when there is none. It needs
// what hack/deps installs for 'kernel'. Say is told what takes long.
func Tree(ctx context.Context, dir, archive string, source debian.Package, say func(string)) (tree string, err error) {
	compiler, err := run(ctx, "", "gcc", "--version")
	if err != nil {
		return "", fmt.Errorf("slim: %w; run: hack/deps kernel", err)
	}
	key := sha256.Sum256([]byte(strings.Join([]string{recipe, source.SHA256, string(config), string(compiler)}, "\x00")))
	tree = filepath.Join(dir, hex.EncodeToString(key[:8]))
	if _, err := os.Stat(tree); err == nil {
		return tree, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("slim: %w", err)
	}
	work, err := os.MkdirTemp(dir, "building-")
	if err != nil {
		return "", fmt.Errorf("slim: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	say("building a kernel; this takes ten minutes or more")
	if err := build(ctx, work, archive, source); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(work, "tree"), tree); err != nil {
		return "", fmt.Errorf("slim: %w", err)
	}
	return tree, nil
}

func build(ctx context.Context, work, archive string, source debian.Package) error {
	src, tree := filepath.Join(work, "source"), filepath.Join(work, "tree")
	if err := unpack(archive, src, tree); err != nil {
		return err
	}
	fragment := filepath.Join(work, "slim.config")
	if err := os.WriteFile(fragment, config, 0o644); err != nil {
		return fmt.Errorf("slim: %w", err)
	}
	if _, err := run(ctx, src, "make", "-s", "KCONFIG_ALLCONFIG="+fragment, "allnoconfig"); err != nil {
		return fmt.Errorf("slim: %w", err)
	}
	made, err := os.ReadFile(filepath.Join(src, ".config"))
	if err != nil {
		return fmt.Errorf("slim: %w", err)
	}
	if lost := Lost(config, made); len(lost) > 0 {
		return fmt.Errorf("slim: %s does not take these lines of slim.config: %s", source.Version, strings.Join(lost, ", "))
	}
	if _, err := run(ctx, src, "make", "-s", "-j"+strconv.Itoa(runtime.NumCPU()), "bzImage", "modules.builtin"); err != nil {
		return fmt.Errorf("slim: %w", err)
	}
	release, err := run(ctx, src, "make", "-s", "kernelrelease")
	if err != nil {
		return fmt.Errorf("slim: %w", err)
	}
	return install(src, tree, strings.TrimSpace(string(release)))
}

// install lays the results out like a kernel package.
func install(src, tree, release string) error {
	modules := filepath.Join(tree, "lib/modules", release)
	errs := []error{os.MkdirAll(filepath.Join(modules, "kernel"), 0o755), os.MkdirAll(filepath.Join(tree, "boot"), 0o755)}
	for from, to := range map[string]string{
		"arch/x86/boot/bzImage": filepath.Join(tree, "boot/vmlinuz-"+release),
		".config":               filepath.Join(tree, "boot/config-"+release),
		"modules.builtin":       filepath.Join(modules, "modules.builtin"),
	} {
		errs = append(errs, os.Rename(filepath.Join(src, from), to))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("slim: %w", err)
	}
	return nil
}

// unpack takes the source out of its package, and the licence, which stays with the kernel.
func unpack(archive, src, tree string) error {
	found := false
	err := debian.Unpack(archive, func(header *tar.Header, content io.Reader) error {
		switch {
		case header.Name == path.Join("usr/share/doc", Package, "copyright"):
			licence := filepath.Join(tree, header.Name)
			text, err := io.ReadAll(content)
			return errors.Join(err, os.MkdirAll(filepath.Dir(licence), 0o755), os.WriteFile(licence, text, 0o644))
		case header.Name == path.Join("usr/src", Package+".tar.xz"):
			found = true
			plain, err := xz.NewReader(content)
			if err != nil {
				return fmt.Errorf("%s: %w", header.Name, err)
			}
			return errors.Join(os.MkdirAll(src, 0o755), debian.ExtractTar(src, Package, plain))
		}
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("%s holds no usr/src/%s.tar.xz", archive, Package)
	}
	if err != nil {
		return fmt.Errorf("slim: %w", err)
	}
	return nil
}

// Lost returns the lines of a configuration fragment that a finished configuration does not have.
func Lost(fragment, made []byte) []string {
	has := map[string]bool{}
	for line := range strings.Lines(string(made)) {
		has[strings.TrimSpace(line)] = true
	}
	var lost []string
	for line := range strings.Lines(string(fragment)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "CONFIG_") && !has[line] {
			lost = append(lost, line)
		}
	}
	return lost
}

// run runs a program and returns what it printed; the error has the end of what it complained of.
func run(ctx context.Context, dir, program string, arguments ...string) ([]byte, error) {
	command := exec.CommandContext(ctx, program, arguments...)
	command.Dir = dir
	command.Env = append(os.Environ(), environment...)
	// Cancelling ends the compilers too, not make alone.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		said := stderr.String()
		return nil, fmt.Errorf("%s %s: %w: %s", program, arguments[len(arguments)-1], err, said[max(0, len(said)-2000):])
	}
	return stdout.Bytes(), nil
}
