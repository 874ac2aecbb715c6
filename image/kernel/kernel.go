package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNoModule means that a kernel neither has a module nor holds it built in.
var ErrNoModule = errors.New("the kernel has no such module")

// Kernel is one kernel in an unpacked package. It reads lazily: the tree must stay.
type Kernel struct {
	// Release is what uname -r tells, and the name of the modules' directory.
	Release string
	// Image is the path of the bootable kernel.
	Image string
	// dir is lib/modules/RELEASE; paths maps a module's normal name to its path below.
	dir     string
	paths   map[string]string
	builtin map[string]bool
}

// Module is one loadable module.
type Module struct {
	// Name is as in /proc/modules, with underscores.
	Name string
	// Path is relative to lib/modules/RELEASE, for example kernel/drivers/block/xen-blkfront.ko.
	Path string
	// Depends are the names of the modules it needs directly, none of them built in.
	Depends []string
	// Content is the ELF file, signature included.
	Content []byte
}

// Open finds the one kernel below tree.
func Open(tree string) (*Kernel, error) {
	var found []string
	for _, dir := range []string{"lib/modules", "usr/lib/modules"} {
		matches, err := filepath.Glob(filepath.Join(tree, dir, "*", "kernel"))
		if err != nil {
			return nil, fmt.Errorf("kernel: %s: %w", tree, err)
		}
		found = append(found, matches...)
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("kernel: %s has %d kernels' modules below lib/modules; exactly one is needed", tree, len(found))
	}
	dir := filepath.Dir(found[0])
	k := &Kernel{Release: filepath.Base(dir), dir: dir, paths: map[string]string{}, builtin: map[string]bool{}}
	k.Image = filepath.Join(tree, "boot", "vmlinuz-"+k.Release)
	if _, err := os.Stat(k.Image); err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	if err := k.readBuiltin(); err != nil {
		return nil, err
	}
	return k, filepath.WalkDir(found[0], func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("kernel: %w", err)
		}
		if name, ok := strings.CutSuffix(entry.Name(), ".ko"); ok && entry.Type().IsRegular() {
			relative, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			k.paths[normal(name)] = relative
		}
		return nil
	})
}

func (k *Kernel) readBuiltin() error {
	f, err := os.Open(filepath.Join(k.dir, "modules.builtin"))
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		k.builtin[normal(strings.TrimSuffix(path.Base(lines.Text()), ".ko"))] = true
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("kernel: %s: %w", f.Name(), err)
	}
	return nil
}

// normal is a module's name as the kernel tells it: file names mix hyphens and underscores.
func normal(name string) string { return strings.ReplaceAll(name, "-", "_") }

// Select returns the named modules and all that they need, in an order in which they can be loaded: what is needed
// comes first. Names that are built in give nothing. A name that the kernel does not know is ErrNoModule.
func (k *Kernel) Select(names ...string) ([]Module, error) {
	s := selection{kernel: k, state: map[string]progress{}}
	for _, name := range names {
		if err := s.add(normal(name), ""); err != nil {
			return nil, err
		}
	}
	return s.modules, nil
}

type progress int

const (
	adding progress = iota + 1
	added
)

type selection struct {
	kernel  *Kernel
	state   map[string]progress
	modules []Module
}

// add appends a module after what it needs; by is who asks, for messages.
func (s *selection) add(name, by string) error {
	switch s.state[name] {
	case added:
		return nil
	case adding:
		return fmt.Errorf("kernel: modules need each other in a circle: %s and %s", by, name)
	}
	if s.kernel.builtin[name] {
		return nil
	}
	relative, ok := s.kernel.paths[name]
	if !ok {
		return fmt.Errorf("kernel %s: module %s%s: %w; its modules must not be compressed", s.kernel.Release, name, neededBy(by), ErrNoModule)
	}
	s.state[name] = adding
	content, err := os.ReadFile(filepath.Join(s.kernel.dir, relative))
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	info, err := readModinfo(content)
	if err != nil {
		return fmt.Errorf("kernel: %s: %w", relative, err)
	}
	module := Module{Name: name, Path: relative, Content: content}
	for _, need := range info.depends {
		if err := s.add(need, name); err != nil {
			return err
		}
		if !s.kernel.builtin[need] {
			module.Depends = append(module.Depends, need)
		}
	}
	// A soft dependency is wanted, not needed: an accelerated cipher, say. Its absence is no error.
	for _, want := range info.softDepends {
		if err := s.add(want, name); err != nil && !errors.Is(err, ErrNoModule) {
			return err
		}
	}
	s.state[name] = added
	s.modules = append(s.modules, module)
	return nil
}

func neededBy(by string) string {
	if by == "" {
		return ""
	}
	return " (needed by " + by + ")"
}

// Dependencies writes the modules.dep of a selection: a line a module, its path and the paths of all that it needs,
// directly or not, as depmod does.
func Dependencies(modules []Module) []byte {
	byName := make(map[string]Module, len(modules))
	for _, m := range modules {
		byName[m.Name] = m
	}
	var text []byte
	for _, m := range modules {
		needs := map[string]bool{}
		collect(byName, m, needs)
		text = append(text, m.Path+":"...)
		for _, path := range slices.Sorted(maps.Keys(needs)) {
			text = append(text, " "+path...)
		}
		text = append(text, '\n')
	}
	return text
}

func collect(byName map[string]Module, m Module, needs map[string]bool) {
	for _, name := range m.Depends {
		if need := byName[name]; !needs[need.Path] {
			needs[need.Path] = true
			collect(byName, need, needs)
		}
	}
}
