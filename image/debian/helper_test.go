package debian_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/understudy-dr/understudy/image/debian/debtest"
)

// entry is a file of a data archive.
type entry struct {
	name, content, link string
	kind                byte
	mode                int64
}

// deb packs a package, its data archive compressed as the suffix says.
func deb(t testing.TB, suffix string, entries ...entry) []byte {
	t.Helper()
	var data bytes.Buffer
	var compressor io.WriteCloser
	var err error
	switch suffix {
	case "":
		compressor = nopCloser{&data}
	case ".gz":
		compressor = gzip.NewWriter(&data)
	case ".xz":
		compressor, err = xz.NewWriter(&data)
	case ".zst":
		compressor, err = zstd.NewWriter(&data)
	default:
		compressor = nopCloser{&data}
	}
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(compressor)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if e.mode == 0 {
			e.mode = 0o644
		}
		err := archive.WriteHeader(&tar.Header{Name: e.name, Size: int64(len(e.content)), Linkname: e.link, Typeflag: e.kind, Mode: e.mode, Format: tar.FormatGNU})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []io.Closer{archive, compressor} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return []byte("!<arch>\n" + debtest.Member("debian-binary", "2.0\n") + debtest.Member("control.tar.xz/", "odd") + debtest.Member("data.tar"+suffix, data.String()))
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// file writes content into a new file.
func file(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "package.deb")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
