package debian_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/image/debian"
	"github.com/understudy-dr/understudy/image/debian/debtest"
)

func TestUnpackEveryCompression(t *testing.T) {
	for _, suffix := range []string{"", ".gz", ".xz", ".zst"} {
		t.Run("data.tar"+suffix, func(t *testing.T) {
			path := file(t, deb(t, suffix, entry{name: "./", kind: tar.TypeDir}, entry{name: "./usr/bin/tool", content: "program"}, entry{name: "/etc/odd", content: "x"}))
			var got []string
			err := debian.Unpack(path, func(header *tar.Header, content io.Reader) error {
				text, err := io.ReadAll(content)
				got = append(got, header.Name+"="+string(text))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"usr/bin/tool=program", "etc/odd=x"}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestUnpackStopsWithTheVisitorsError(t *testing.T) {
	stop := errors.New("enough")
	visits := 0
	err := debian.Unpack(file(t, deb(t, ".gz", entry{name: "a"}, entry{name: "b"})), func(*tar.Header, io.Reader) error {
		visits++
		return stop
	})
	if !errors.Is(err, stop) || visits != 1 {
		t.Errorf("%v after %d visits", err, visits)
	}
}

func TestUnpackRefusesWhatIsNoPackage(t *testing.T) {
	whole := deb(t, ".gz", entry{name: "file", content: strings.Repeat("content", 1000)})
	for name, content := range map[string][]byte{
		"empty":             nil,
		"another format":    []byte("PK\x03\x04 this is no ar archive"),
		"only the magic":    []byte("!<arch>\n"),
		"cut in a member":   whole[:100],
		"cut in the data":   whole[:len(whole)-40],
		"no data archive":   []byte("!<arch>\n" + debtest.Member("debian-binary", "2.0\n")),
		"many members":      []byte("!<arch>\n" + strings.Repeat(debtest.Member("_gpgorigin", "x"), 100)),
		"negative size":     []byte("!<arch>\n" + strings.Replace(debtest.Member("x", "y"), "1         `", "-1        `", 1)),
		"broken header end": []byte("!<arch>\n" + strings.Replace(debtest.Member("x", "y"), "`", "'", 1)),
		"unknown suffix":    deb(t, ".lzma", entry{name: "file"}),
		"false suffix":      []byte("!<arch>\n" + debtest.Member("data.tar.xz", "this is not xz")),
		"no archive in it":  []byte("!<arch>\n" + debtest.Member("data.tar", strings.Repeat("x", 600))),
		"entry above":       deb(t, "", entry{name: "../../etc/passwd"}),
		"hidden above":      deb(t, "", entry{name: "a/../../b"}),
		"endless name":      deb(t, "", entry{name: strings.Repeat("a/", 4000) + "b"}),
	} {
		t.Run(name, func(t *testing.T) {
			err := debian.Unpack(file(t, content), func(*tar.Header, io.Reader) error { return nil })
			if !errors.Is(err, debian.ErrFormat) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

func TestExtract(t *testing.T) {
	dir := t.TempDir()
	first := file(t, deb(t, ".gz",
		entry{name: "./lib/", kind: tar.TypeDir, mode: 0o755},
		entry{name: "./lib/libx.so.1.0", content: "old"},
		entry{name: "./lib/libx.so.1", kind: tar.TypeSymlink, link: "libx.so.1.0"},
		entry{name: "./usr/bin/tool", content: "tool", mode: 0o4755},
		entry{name: "./usr/bin/alias", kind: tar.TypeLink, link: "./usr/bin/tool"},
		entry{name: "./etc/secret", content: "s", mode: 0o600}))
	second := file(t, deb(t, ".zst", entry{name: "./lib/libx.so.1.0", content: "new"}))
	if err := debian.Extract(dir, first, second); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"lib/libx.so.1": "new", "usr/bin/tool": "tool", "usr/bin/alias": "tool", "etc/secret": "s"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]os.FileMode{"usr/bin/tool": 0o755, "etc/secret": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != want {
			t.Errorf("%s has the mode %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
}

// Nothing a package holds may reach a file outside the tree.
func TestExtractStaysInside(t *testing.T) {
	for name, entries := range map[string][]entry{
		"through an absolute link": {{name: "out", kind: tar.TypeSymlink, link: "OUTSIDE"}, {name: "out/victim", content: "bad"}},
		"through a relative link":  {{name: "out", kind: tar.TypeSymlink, link: "../outside"}, {name: "out/victim", content: "bad"}},
		"by a hard link":           {{name: "out", kind: tar.TypeLink, link: "../outside/victim"}, {name: "out", content: "bad"}},
		"hard link over a link":    {{name: "d", kind: tar.TypeSymlink, link: "../outside"}, {name: "x", kind: tar.TypeLink, link: "d/victim"}},
		"a device":                 {{name: "dev/sda", kind: tar.TypeBlock}},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			outside, tree := filepath.Join(parent, "outside"), filepath.Join(parent, "tree")
			victim := filepath.Join(outside, "victim")
			if err := errors.Join(os.Mkdir(outside, 0o755), os.Mkdir(tree, 0o755), os.WriteFile(victim, []byte("whole"), 0o644)); err != nil {
				t.Fatal(err)
			}
			for i := range entries {
				entries[i].link = strings.Replace(entries[i].link, "OUTSIDE", outside, 1)
			}
			if err := debian.Extract(tree, file(t, deb(t, "", entries...))); err == nil {
				t.Error("it was accepted")
			}
			if got, err := os.ReadFile(victim); err != nil || string(got) != "whole" {
				t.Errorf("the file outside is %q, %v", got, err)
			}
		})
	}
}

func FuzzUnpackFrom(f *testing.F) {
	f.Add(deb(f, "", entry{name: "./usr/file", content: "content"}, entry{name: "link", kind: tar.TypeSymlink, link: "/etc"}))
	f.Add(deb(f, ".gz", entry{name: "a", content: strings.Repeat("x", 2000)}))
	f.Add([]byte("!<arch>\n" + debtest.Member("debian-binary", "2.0\n")))
	f.Add([]byte("!<arch>\ndata.tar.gz"))
	f.Fuzz(func(t *testing.T, content []byte) {
		if bytes.Contains(content, []byte("data.tar.xz")) || bytes.Contains(content, []byte("data.tar.zst")) {
			return // the decompressors are others' and take what memory the stream asks for
		}
		err := debian.UnpackFrom(bytes.NewReader(content), func(header *tar.Header, r io.Reader) error {
			if !filepath.IsLocal(header.Name) || header.Name == "." {
				t.Errorf("a visitor was shown the name %q", header.Name)
			}
			_, _ = io.CopyN(io.Discard, r, 1<<20) // whatever it is, no harm may come of reading it
			return nil
		})
		if err != nil && !errors.Is(err, debian.ErrFormat) {
			t.Errorf("an error of no kind: %v", err)
		}
	})
}
