package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// tools are the programs of e2fsprogs, by which a guest's file system is made and changed without root.
type tools struct{ mkfs, debugfs, fsck string }

func findTools() (t tools, err error) {
	for _, tool := range []struct {
		path *string
		name string
	}{{&t.mkfs, "mkfs.ext4"}, {&t.debugfs, "debugfs"}, {&t.fsck, "e2fsck"}} {
		if *tool.path, err = findTool(tool.name); err != nil {
			return t, err
		}
	}
	return t, nil
}

// findTool looks where root's programs are too: an ordinary user's PATH lacks that folder.
func findTool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if info, err := os.Stat(dir + name); err == nil && info.Mode().Perm()&0o111 != 0 {
			return dir + name, nil
		}
	}
	return "", fmt.Errorf("%s is missing: run hack/deps demo, which installs e2fsprogs", name)
}

// makeFileSystem makes an ext4 image of size bytes that holds a copy of dir.
func (t tools) makeFileSystem(ctx context.Context, image string, size int64, label, dir string) error {
	f, err := os.OpenFile(image, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		_ = f.Close() // what failed first counts
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	_, err = command(ctx, t.mkfs, "-q", "-F", "-L", label, "-E", "root_owner=0:0", "-d", dir, image)
	return err
}

// change carries out debugfs commands on an image. Debugfs ends with 0 whatever happens; its complaints tell.
func (t tools) change(ctx context.Context, image string, commands []string) error {
	c := exec.CommandContext(ctx, t.debugfs, "-w", "-f", "/dev/stdin", image)
	c.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	var complaints bytes.Buffer
	c.Stderr = &complaints
	if err := c.Run(); err != nil {
		return fmt.Errorf("debugfs %s: %w: %s", image, err, complaints.String())
	}
	for line := range strings.Lines(complaints.String()) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "debugfs ") { // its name and version
			return fmt.Errorf("debugfs %s: %s", image, line)
		}
	}
	return nil
}

// extract copies a file out of an image.
func (t tools) extract(ctx context.Context, image, from, to string) error {
	if _, err := command(ctx, t.debugfs, "-R", fmt.Sprintf("dump %s %s", from, to), image); err != nil {
		return err
	}
	if _, err := os.Stat(to); err != nil {
		return fmt.Errorf("debugfs %s: it has no file %s: %w", image, from, err)
	}
	return nil
}

// list shows a folder in an image.
func (t tools) list(ctx context.Context, image, dir string) (string, error) {
	return command(ctx, t.debugfs, "-R", "ls -l "+dir, image)
}

// check looks an image's file system over, and changes nothing.
func (t tools) check(ctx context.Context, image string) error {
	_, err := command(ctx, t.fsck, "-f", "-n", image)
	return err
}

// command runs a program and returns its standard output; all that it printed is in the error.
func command(ctx context.Context, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	var out, complaints bytes.Buffer
	c.Stdout, c.Stderr = &out, &complaints
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s%s", strings.Join(append([]string{name}, args...), " "), err, out.String(), complaints.String())
	}
	return out.String(), nil
}
