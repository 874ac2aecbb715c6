package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"github.com/understudy-dr/understudy/image/kernel"
)

// Contents is what goes in.
type Contents struct {
	// Init is the statically linked program of PID 1.
	Init []byte
	// Release is the kernel's, Modules what it may load, in loading order.
	Release string
	Modules []kernel.Module
	// Load names the modules that PID 1 loads, in this order. Their dependencies need not be named.
	Load []string
	// Builtin names modules that somebody may ask for and that the kernel has in itself.
	Builtin []string
}

// Build returns the compressed archive.
func Build(c Contents) ([]byte, error) {
	if len(c.Init) == 0 {
		return nil, errors.New("initramfs: no program for /init")
	}
	if c.Release == "" || strings.ContainsAny(c.Release, "/\x00") {
		return nil, fmt.Errorf("initramfs: %q is not a kernel's release", c.Release)
	}
	archive, err := pack(c)
	if err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	// One thread and one call: the output depends on the input alone.
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	return encoder.EncodeAll(archive, nil), encoder.Close()
}

func pack(c Contents) ([]byte, error) {
	records := []cpio.Record{
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.CharDev("dev/null", 0o666, 1, 3),
		cpio.StaticFile("etc/modules", lines(c.Load), 0o444),
		cpio.StaticFile("init", string(c.Init), 0o555),
		cpio.Symlink("sbin/poweroff", "/init"),
	}
	for _, dir := range []string{"proc", "run", "sys", "tmp"} {
		records = append(records, cpio.Directory(dir, 0o755))
	}
	modules := path.Join("lib/modules", c.Release)
	records = append(records,
		cpio.StaticFile(path.Join(modules, "modules.dep"), string(kernel.Dependencies(c.Modules)), 0o444),
		cpio.StaticFile(path.Join(modules, "modules.builtin"), lines(c.Builtin), 0o444))
	for _, m := range c.Modules {
		records = append(records, cpio.StaticFile(path.Join(modules, m.Path), string(m.Content), 0o444))
	}
	cpio.MakeAllReproducible(records)
	var archive bytes.Buffer
	writer := cpio.NewDedupWriter(cpio.Newc.Writer(&archive))
	for _, record := range records {
		// The kernel makes no directories of its own accord; one that is there already is left out by the writer.
		for _, dir := range parents(record.Name) {
			if err := writer.WriteRecord(cpio.MakeReproducible(cpio.Directory(dir, 0o755))); err != nil {
				return nil, err
			}
		}
		if err := writer.WriteRecord(record); err != nil {
			return nil, err
		}
	}
	if err := cpio.WriteTrailer(writer); err != nil {
		return nil, err
	}
	return archive.Bytes(), nil
}

// parents lists the directories above a file, the highest first.
func parents(name string) []string {
	var dirs []string
	for i, c := range name {
		if c == '/' {
			dirs = append(dirs, name[:i])
		}
	}
	return dirs
}

func lines(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return strings.Join(names, "\n") + "\n"
}
