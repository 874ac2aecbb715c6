package dataset

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// span is a part of an image, in bytes.
type span struct{ off, length int64 }

// makeFileSystem makes an ext4 image of a tree. Identifiers and times are fixed.
func makeFileSystem(ctx context.Context, image string, size int64, tree string) error {
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(image, size); err != nil {
		return err
	}
	const id = "6d2f0f5e-7a51-4c55-9c5e-5a3f7d1b8e10"
	return tool(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-b", strconv.Itoa(pageSize), "-m", "0", "-U", id,
		"-E", "hash_seed="+id+",root_owner=0:0,lazy_itable_init=0", "-d", tree, image)
}

// moveFile copies the local file content into the image as a new file and then removes the old one, whose blocks keep their content,
// as they do in a guest.
func moveFile(ctx context.Context, image, content, to, old string) error {
	script := filepath.Join(filepath.Dir(image), "debugfs.script")
	if err := os.WriteFile(script, fmt.Appendf(nil, "write %s %s\nrm %s\n", content, to, old), 0o600); err != nil {
		return err
	}
	defer os.Remove(script) //nolint:errcheck // the whole folder goes
	return tool(ctx, "debugfs", "-w", "-f", script, image)
}

// locate returns where a file lies in the image.
func locate(ctx context.Context, image, file string) ([]span, error) {
	out, err := exec.CommandContext(ctx, "debugfs", "-R", "dump_extents -l "+file, image).Output()
	if err != nil {
		return nil, fmt.Errorf("debugfs dump_extents: %w", err)
	}
	spans, err := parseExtents(out)
	if err == nil && len(spans) == 0 {
		err = fmt.Errorf("debugfs finds no extents of %s in %s", file, image)
	}
	return spans, err
}

// extentLine is a leaf: level, entry, logical first and last block, physical first and last block, number of blocks.
var extentLine = regexp.MustCompile(`^\s*\d+/\s*\d+\s+\d+/\s*\d+\s+\d+\s*-\s*\d+\s+(\d+)\s*-\s*(\d+)\s+(\d+)`)

func parseExtents(out []byte) ([]span, error) {
	var spans []span
	for line := range bytes.Lines(out) {
		m := extentLine.FindSubmatch(line)
		if m == nil {
			continue
		}
		first, err1 := strconv.ParseInt(string(m[1]), 10, 64)
		last, err2 := strconv.ParseInt(string(m[2]), 10, 64)
		if err1 != nil || err2 != nil || last < first {
			return nil, fmt.Errorf("unreadable line of debugfs: %q", line)
		}
		spans = append(spans, span{first * pageSize, (last - first + 1) * pageSize})
	}
	return spans, nil
}

// tool runs a program of e2fsprogs, which stands in a folder that not every user's PATH has.
func tool(ctx context.Context, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=1750000000")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s; run hack/deps bench", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
