package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// module is one line of modules.dep(5).
type module struct {
	path  string   // relative to the directory of the kernel's modules
	needs []string // names of all modules below it; the last must be loaded first
}

// loader loads modules with what they need. It is used once.
type loader struct {
	system    System
	directory string            // of this kernel's modules
	modules   map[string]module // by normal name
	builtin   map[string]bool   // by normal name
	words     []string          // of the kernel's command line
	results   map[string]error  // of what was tried
}

// modulesResult tells what came of the list in /etc/modules; each name is in one of the three.
type modulesResult struct {
	loaded []string // or built in
	absent []string // the machine does not have their device
	failed []error
}

// loadModules loads what /etc/modules lists, in order; no such file means that all is built into the kernel.
func (s System) loadModules(words []string) (result modulesResult) {
	list, err := s.text("/etc/modules")
	if errors.Is(err, fs.ErrNotExist) {
		return result
	}
	var l *loader
	if err == nil {
		l, err = s.newLoader(words)
	}
	if err != nil {
		result.failed = []error{fmt.Errorf("list of modules: %w", err)}
		return result
	}
	for line := range strings.Lines(list) {
		name := normalName(strings.TrimSpace(line))
		if name == "" || name[0] == '#' {
			continue
		}
		switch err := l.load(name); {
		case err == nil:
			result.loaded = append(result.loaded, name)
		case errors.Is(err, unix.ENODEV):
			result.absent = append(result.absent, name)
		default:
			result.failed = append(result.failed, err)
		}
	}
	return result
}

// LoadModule loads a module that the image has and PID 1 does not load, after what it needs. One that is loaded or built in is nothing
// to do.
func (s System) LoadModule(name string) error {
	l, err := s.newLoader(ParseCommandLine(s.word("/proc/cmdline")))
	if err == nil {
		err = l.load(normalName(name))
	}
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	return nil
}

func (s System) newLoader(words []string) (*loader, error) {
	l := &loader{
		system: s, directory: path.Join("/lib/modules", s.word("/proc/sys/kernel/osrelease")),
		builtin: make(map[string]bool), words: words, results: make(map[string]error),
	}
	dependencies, err := s.text(path.Join(l.directory, "modules.dep"))
	if err != nil {
		return nil, err
	}
	if l.modules, err = parseDependencies(dependencies); err != nil {
		return nil, fmt.Errorf("%s/modules.dep: %w", l.directory, err)
	}
	builtin, err := s.text(path.Join(l.directory, "modules.builtin"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(builtin) {
		l.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	return l, nil
}

// parseDependencies reads modules.dep(5): "path: path path …" a line.
func parseDependencies(text string) (map[string]module, error) {
	modules := make(map[string]module)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		file, needs, ok := strings.Cut(line, ":")
		if !ok || moduleName(file) == "" {
			return nil, fmt.Errorf("line %.80q is not 'module: needed modules'", line)
		}
		m := module{path: file}
		for need := range strings.FieldsSeq(needs) {
			m.needs = append(m.needs, moduleName(need))
		}
		modules[moduleName(file)] = m
	}
	return modules, nil
}

// moduleName is the normal name of a module's file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".")
	return normalName(name)
}

// load loads a module after all that it needs; once, whatever came of it.
func (l *loader) load(name string) error {
	if err, ok := l.results[name]; ok {
		return err
	}
	l.results[name] = nil // modules.dep of a broken image may hold a circle
	err := l.loadNow(name)
	l.results[name] = err
	return err
}

func (l *loader) loadNow(name string) error {
	m, ok := l.modules[name]
	if !ok {
		if l.builtin[name] || l.system.exists("/sys/module/"+name) {
			return nil
		}
		return fmt.Errorf("module %s is neither in %s/modules.dep nor built into the kernel: build the image again", name, l.directory)
	}
	for _, need := range slices.Backward(m.needs) {
		if err := l.load(need); err != nil {
			return fmt.Errorf("for module %s: %w", name, err)
		}
	}
	f, err := os.Open(l.system.path(path.Join(l.directory, m.path)))
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	defer f.Close()
	parameters := ModuleParameters(l.words, name)
	if err := l.system.Load(f, parameters); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("module %s (parameters %q): %w", name, parameters, err)
	}
	return nil
}
