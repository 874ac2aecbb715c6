package dom0

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

// agentPackage is the program that becomes dom0's PID 1.
const agentPackage = "github.com/understudy-dr/understudy/qemu-tests/worlds/xen/agent"

// Initramfs writes dom0's initramfs to a file: the tools, and after them the agent, built from the source tree that the working
// directory is in. The kernel unpacks one archive after the other.
func (p Parts) Initramfs(ctx context.Context, file string) error {
	program := file + ".agent"
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, agentPackage)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("dom0: building its agent: %w\n%s", err, out)
	}
	agent, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	archive, err := pack([]cpio.Record{cpio.StaticFile("init", string(agent), 0o755)})
	if err != nil {
		return fmt.Errorf("dom0: %w", err)
	}
	tools, err := os.Open(p.tools)
	if err != nil {
		return err
	}
	defer tools.Close()
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	err = join(out, tools, bytes.NewReader(archive))
	return errors.Join(err, out.Close(), os.Remove(program))
}

// join writes archives one after the other, each beginning at a multiple of four bytes.
func join(out io.Writer, archives ...io.Reader) error {
	for _, archive := range archives {
		n, err := io.Copy(out, archive)
		if err != nil {
			return err
		}
		if _, err := out.Write(make([]byte, -n&3)); err != nil {
			return err
		}
	}
	return nil
}

// pack makes a compressed archive. The fastest level: what counts is the time until dom0 answers.
func pack(records []cpio.Record) ([]byte, error) {
	cpio.MakeAllReproducible(records)
	var archive bytes.Buffer
	writer := cpio.NewDedupWriter(cpio.Newc.Writer(&archive))
	if err := cpio.WriteRecordsAndDirs(writer, records); err != nil {
		return nil, err
	}
	if err := cpio.WriteTrailer(writer); err != nil {
		return nil, err
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, err
	}
	return encoder.EncodeAll(archive.Bytes(), nil), encoder.Close()
}

func writeArchive(file string, records []cpio.Record) error {
	archive, err := pack(records)
	if err != nil {
		return err
	}
	return os.WriteFile(file, archive, 0o644)
}

// DefaultCache is $UNDERSTUDY_CACHE, or understudy in the user's cache folder.
func DefaultCache() (string, error) {
	if dir := os.Getenv("UNDERSTUDY_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("dom0: no place for fetched packages: %w; set UNDERSTUDY_CACHE", err)
	}
	return filepath.Join(dir, "understudy"), nil
}
