package boot

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// System is what this package asks of the kernel, so that it can be tested in an ordinary process.
type System struct {
	// Root stands before every path; "" is the machine itself.
	Root string
	// Mount is mount(2); the target is below Root.
	Mount func(source, target, filesystem string, flags uintptr, data string) error
	// Load is finit_module(2).
	Load func(module *os.File, parameters string) error
	// Kill is kill(2).
	Kill func(pid int, signal unix.Signal) error
	// Parent is getppid(2).
	Parent func() int
	// Sync is sync(2).
	Sync func()
	// Reboot is reboot(2).
	Reboot func(command int) error
}

// Kernel is the real System.
func Kernel() System {
	return System{
		Mount:  unix.Mount,
		Load:   func(f *os.File, parameters string) error { return unix.FinitModule(int(f.Fd()), parameters, 0) },
		Kill:   unix.Kill,
		Parent: unix.Getppid,
		Sync:   unix.Sync,
		Reboot: unix.Reboot,
	}
}

func (s System) path(name string) string { return filepath.Join(s.Root, name) }

func (s System) exists(name string) bool {
	_, err := os.Stat(s.path(name))
	return err == nil
}

// AwaitPath returns the first of these paths that is there; "" when none is. It tells one platform from another by what only that
// one has. Devices may show a moment after their modules are loaded, so it waits for so long before it gives up.
func (s System) AwaitPath(wait time.Duration, paths ...string) string {
	for deadline := time.Now().Add(wait); ; time.Sleep(50 * time.Millisecond) {
		for _, path := range paths {
			if s.exists(path) {
				return path
			}
		}
		if !time.Now().Before(deadline) {
			return ""
		}
	}
}

// maxText bounds the text files that are read whole, in bytes; the largest, a distribution's full modules.dep, has 0.6 MB.
const maxText = 4 << 20

// text reads a small file.
func (s System) text(name string) (string, error) {
	f, err := os.Open(s.path(name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err != nil {
		return "", err
	}
	if len(content) > maxText {
		return "", fmt.Errorf("%s has more than %d bytes", name, maxText)
	}
	return string(content), nil
}

// word reads a file of one line, such as the kernel's in /sys; "" when it is not there.
func (s System) word(name string) string {
	text, _ := s.text(name)
	return strings.TrimSpace(text)
}
