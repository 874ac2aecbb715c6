package debian_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/image/debian"
	"github.com/understudy-dr/understudy/image/debian/debtest"
)

// TestMain is apt too: the tests put links to this program into PATH, named like apt's programs.
func TestMain(m *testing.M) {
	switch program := filepath.Base(os.Args[0]); program {
	case "apt-get", "apt-cache":
		os.Exit(apt(program, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// apt plays apt on the files of $MIRROR: old/ is what is known before an update, new/ afterwards.
func apt(program string, arguments []string) int {
	mirror := os.Getenv("MIRROR")
	fail := func(message string) int {
		fmt.Fprintln(os.Stderr, "E:", message)
		return 100
	}
	if len(arguments) < 4 || arguments[0] != "-c" || arguments[2] != "-qq" {
		return fail("wrong arguments")
	}
	config, err := os.ReadFile(arguments[1])
	if err != nil || !strings.Contains(string(config), `Dir::State "`) {
		return fail("no private configuration")
	}
	state := filepath.Dir(arguments[1])
	release := filepath.Join(state, "lists", "mirror_InRelease")
	known := "old"
	if text, err := os.ReadFile(release); err == nil {
		known = string(text)
	} else if arguments[3] != "update" {
		return fail("no lists")
	}
	log, err := os.OpenFile(filepath.Join(mirror, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fail(err.Error())
	}
	defer log.Close()
	if _, err := fmt.Fprintln(log, program, strings.Join(arguments[3:], " ")); err != nil {
		return fail(err.Error())
	}
	switch arguments[3] {
	case "update":
		if _, err := os.Stat(filepath.Join(mirror, "hang")); err == nil {
			time.Sleep(time.Minute)
		}
		next := "old"
		if _, err := os.Stat(release); err == nil {
			next = "new"
		}
		if err := os.WriteFile(release, []byte(next), 0o644); err != nil {
			return fail(err.Error())
		}
	case "show":
		for _, name := range arguments[5:] {
			name, _, _ = strings.Cut(name, "=")
			text, err := os.ReadFile(filepath.Join(mirror, known, name+".record"))
			if err != nil {
				return fail("No packages found")
			}
			fmt.Printf("%s\n", text)
		}
	case "install":
		fmt.Print("Inst gcc-12-base (12.2.0-14+deb12u1 Debian:12.12/stable [amd64])\nInst tool (1:2.0-1 Debian:12 [amd64]) []\nConf tool (1:2.0-1 Debian:12 [amd64])\n")
	case "download":
		for _, name := range arguments[4:] {
			name, _, _ := strings.Cut(name, ":")
			content, err := os.ReadFile(filepath.Join(mirror, known, name+".deb"))
			if err != nil {
				return fail("Version '1:2.0-1' for '" + name + "' was not found")
			}
			if err := os.WriteFile(name+"_1%3a2.0-1_amd64.deb", content, 0o644); err != nil {
				return fail(err.Error())
			}
		}
	}
	return 0
}

// mirror makes an archive whose apt is this program.
func mirror(t *testing.T) (debian.Archive, string) {
	t.Helper()
	programs, root := t.TempDir(), t.TempDir()
	self, err := os.Executable()
	err = errors.Join(err, os.Symlink(self, filepath.Join(programs, "apt-get")), os.Symlink(self, filepath.Join(programs, "apt-cache")),
		os.Mkdir(filepath.Join(root, "old"), 0o755), os.Mkdir(filepath.Join(root, "new"), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", programs)
	t.Setenv("MIRROR", root)
	t.Setenv("GORACE", "atexit_sleep_ms=0") // else each call takes a second longer
	return debian.Archive{Dir: filepath.Join(t.TempDir(), "cache")}, root
}

func put(t *testing.T, root, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func log(t *testing.T, root string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "log"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func describe(p debian.Package) string {
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nSize: %d\nSHA256: %s\n", p.Name, p.Version, p.Architecture, p.Size, p.SHA256)
}

func TestResolveAndClosure(t *testing.T) {
	archive, root := mirror(t)
	tool, base := debtest.Name("tool", []byte("tool")), debtest.Name("gcc-12-base", []byte("base"))
	base.Version = "12.2.0-14+deb12u1"
	put(t, root, "old/tool.record", describe(tool))
	put(t, root, "old/gcc-12-base.record", describe(base))

	got, err := archive.Resolve(t.Context(), "tool", "gcc-12-base")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]debian.Package{tool, base}, got); diff != "" {
		t.Error(diff)
	}
	if got, err = archive.Closure(t.Context(), "tool"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]debian.Package{base, tool}, got); diff != "" {
		t.Error(diff)
	}
	if log := log(t, root); log[0] != "apt-get update --error-on=any" || len(log) != 4 {
		t.Errorf("apt was asked for %q", log)
	}
	if _, err := archive.Resolve(t.Context(), "absent"); err == nil || !strings.Contains(err.Error(), "No packages found") {
		t.Errorf("of an absent package: %v", err)
	}
	for _, names := range [][]string{{"--option"}, {}, {"A"}} {
		if _, err := archive.Resolve(t.Context(), names...); err == nil {
			t.Errorf("%q was taken for names", names)
		}
	}
}

func TestFetch(t *testing.T) {
	archive, root := mirror(t)
	put(t, root, "old/tool.deb", "tool")
	put(t, root, "old/lib.deb", "lib")
	packages := []debian.Package{debtest.Name("tool", []byte("tool")), debtest.Name("lib", []byte("lib"))}
	paths, err := archive.Fetch(t.Context(), packages)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"tool", "lib"} {
		if got, err := os.ReadFile(paths[i]); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v", paths[i], got, err)
		}
	}
	// What is there needs no apt.
	t.Setenv("PATH", t.TempDir())
	again, err := archive.Fetch(t.Context(), packages)
	if diff := cmp.Diff(paths, again); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	if _, err := archive.Fetch(t.Context(), []debian.Package{debtest.Name("other", []byte("other"))}); !errors.Is(err, debian.ErrNoApt) {
		t.Errorf("without apt: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(archive.Dir, "download-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// A mirror may be ahead of the indices; then they are renewed, once.
func TestFetchRenewsOldIndices(t *testing.T) {
	archive, root := mirror(t)
	put(t, root, "new/tool.deb", "tool")
	if _, err := archive.Fetch(t.Context(), []debian.Package{debtest.Name("tool", []byte("tool"))}); err != nil {
		t.Fatal(err)
	}
	want := []string{"apt-get update --error-on=any", "apt-get download tool:amd64=1:2.0-1", "apt-get update --error-on=any", "apt-get download tool:amd64=1:2.0-1"}
	if diff := cmp.Diff(want, log(t, root)); diff != "" {
		t.Error(diff)
	}
}

func TestFetchRefuses(t *testing.T) {
	t.Run("a version that is gone", func(t *testing.T) {
		archive, _ := mirror(t)
		_, err := archive.Fetch(t.Context(), []debian.Package{debtest.Name("tool", []byte("tool"))})
		if !errors.Is(err, debian.ErrGone) || !strings.Contains(err.Error(), "make image-lock") {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("an archive that differs from the lock", func(t *testing.T) {
		archive, root := mirror(t)
		put(t, root, "old/tool.deb", "evil")
		paths, err := archive.Fetch(t.Context(), []debian.Package{debtest.Name("tool", []byte("tool"))})
		if !errors.Is(err, debian.ErrAltered) {
			t.Errorf("%v, %v", paths, err)
		}
		if kept, _ := filepath.Glob(filepath.Join(archive.Dir, "archives", "*")); len(kept) > 0 {
			t.Errorf("it was kept: %q", kept)
		}
	})
	t.Run("a cached archive that was altered", func(t *testing.T) {
		archive, root := mirror(t)
		put(t, root, "old/tool.deb", "tool")
		packages := []debian.Package{debtest.Name("tool", []byte("tool"))}
		paths, err := archive.Fetch(t.Context(), packages)
		if err := errors.Join(err, os.WriteFile(paths[0], []byte("t00l"), 0o644)); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Fetch(t.Context(), packages); !errors.Is(err, debian.ErrAltered) {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("a package that cannot be", func(t *testing.T) {
		archive, root := mirror(t)
		p := debtest.Name("tool", []byte("tool"))
		p.Version = "1=2"
		if _, err := archive.Fetch(t.Context(), []debian.Package{p}); err == nil {
			t.Error("it was accepted")
		}
		if log := log(t, root); log[0] != "" {
			t.Errorf("apt was asked for %q", log)
		}
	})
}

// Cancelling ends a hanging apt, and one that waits for another process's lock.
func TestCancel(t *testing.T) {
	archive, root := mirror(t)
	put(t, root, "hang", "")
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	results := make(chan error, 2)
	for range 2 {
		go func() { results <- archive.Update(ctx) }()
	}
	time.Sleep(100 * time.Millisecond)
	start := time.Now()
	cancel(enough)
	for range 2 {
		if err := <-results; !errors.Is(err, enough) {
			t.Errorf("ended with %v", err)
		}
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestDefaultDir(t *testing.T) {
	t.Setenv("UNDERSTUDY_CACHE", "/some/place")
	if dir, err := debian.DefaultDir(); err != nil || dir != "/some/place/debian" {
		t.Errorf("%s, %v", dir, err)
	}
	t.Setenv("UNDERSTUDY_CACHE", "")
	t.Setenv("XDG_CACHE_HOME", "/home/user/.cache")
	if dir, err := debian.DefaultDir(); err != nil || dir != "/home/user/.cache/understudy/debian" {
		t.Errorf("%s, %v", dir, err)
	}
}
