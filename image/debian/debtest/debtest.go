package debtest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/understudy-dr/understudy/image/debian"
)

// Pack packs a directory into a package whose data archive is not compressed. Equal files give equal packages.
func Pack(dir string) ([]byte, error) {
	var data bytes.Buffer
	archive := tar.NewWriter(&data)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := "." + strings.TrimPrefix(path, dir)
		if err := archive.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: int64(info.Mode().Perm())}); err != nil {
			return err
		}
		_, err = archive.Write(content)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return []byte("!<arch>\n" + Member("debian-binary", "2.0\n") + Member("data.tar", data.String())), nil
}

// Member is one of a package's outer ar archive, padded to an even length.
func Member(name, content string) string {
	header := fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", len(content))
	return header + content + strings.Repeat("\n", len(content)%2)
}

// Name gives a package's archive a name, a version and its digest.
func Name(name string, content []byte) debian.Package {
	sum := sha256.Sum256(content)
	return debian.Package{Name: name, Version: "1:2.0-1", Architecture: "amd64", Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
}

// Put packs a directory and puts it into an archive's cache, as if it had been fetched.
func Put(archive debian.Archive, name, dir string) (debian.Package, error) {
	content, err := Pack(dir)
	if err != nil {
		return debian.Package{}, err
	}
	p := Name(name, content)
	path := filepath.Join(archive.Dir, "archives", name+"_1%3a2.0-1_amd64.deb")
	return p, errors.Join(os.MkdirAll(filepath.Dir(path), fs.ModePerm), os.WriteFile(path, content, 0o644))
}
