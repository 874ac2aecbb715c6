package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// guest is the content of VM 'web': what its user does to its files between the runs.
type guest struct {
	tools
	scratch string   // folder for files on their way into an image
	size    int64    // of the first disk
	tree    string   // the folder that fills the first disk
	files   []string // of the tree, by their paths from its top; those that are used up are removed
	random  *rand.Rand
	noted   int
}

// newGuest chooses the tree: as much of Go's own as the disk takes.
func newGuest(ctx context.Context, t tools, scratch string, size int64) (*guest, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("finding the Go tree that fills the disk: %w", err)
	}
	g := &guest{tools: t, scratch: scratch, size: size, random: rand.New(rand.NewPCG(1, 2))} // every demo makes the same changes
	root := strings.TrimSpace(string(out))
	for _, part := range []string{"", "src", "src/net", "src/fmt"} {
		g.tree = filepath.Join(root, part)
		used, err := g.survey()
		if err != nil {
			return nil, err
		}
		if used <= size*6/10 && len(g.files) > 0 {
			return g, nil
		}
	}
	return nil, fmt.Errorf("no part of %s fits a disk of %d bytes", root, size)
}

// plain are names that debugfs takes without quoting.
var plain = regexp.MustCompile(`^[A-Za-z0-9._/+-]+$`)

// survey lists the tree's files and returns the space they take in blocks of 4 KiB.
func (g *guest) survey() (used int64, err error) {
	g.files = nil
	err = filepath.WalkDir(g.tree, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		used += (info.Size() + 4095) &^ 4095
		relative, err := filepath.Rel(g.tree, path)
		if info.Mode().IsRegular() && info.Size() > 0 && plain.MatchString(relative) {
			g.files = append(g.files, "/"+relative)
		}
		return err
	})
	return used, err
}

// disks makes the images of the two disks.
func (g *guest) disks(ctx context.Context) ([]string, error) {
	data := filepath.Join(g.scratch, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		return nil, err
	}
	second := g.size / 4
	if err := errors.Join(
		os.WriteFile(filepath.Join(data, "random.bin"), noise(second/16, 1), 0o644),
		os.WriteFile(filepath.Join(data, "access.log"), accessLog(second/32, 1), 0o644),
	); err != nil {
		return nil, err
	}
	images := []string{filepath.Join(g.scratch, "0.raw"), filepath.Join(g.scratch, "1.raw")}
	if err := g.makeFileSystem(ctx, images[0], g.size, "web", g.tree); err != nil {
		return nil, err
	}
	return images, g.makeFileSystem(ctx, images[1], second, "data", data)
}

// firstChange is a day of the guest's life: a new folder with new files, edits, deletions, moves. The second disk stays as it is.
func (g *guest) firstChange(ctx context.Context, disk string) error {
	notes, err := g.put("notes.txt", []byte("What the guest wrote between run 1 and run 2.\n"))
	if err != nil {
		return err
	}
	photos, err := g.put("photos.bin", noise(g.size/256, 2))
	if err != nil {
		return err
	}
	commands := []string{"mkdir /demo", "write " + notes + " /demo/notes.txt", "write " + photos + " /demo/photos.bin"}
	for range 3 {
		commands = append(commands, g.move()...)
	}
	for range 20 {
		commands = append(commands, "rm "+g.take())
	}
	edits, err := g.edit(ctx, disk, g.take(), "edited before run 2\n")
	if err != nil {
		return err
	}
	return g.apply(ctx, disk, append(commands, edits...))
}

// secondChange goes on with the files of the first one, and writes to the second disk too.
func (g *guest) secondChange(ctx context.Context, first, second string) error {
	report, err := g.put("report.log", accessLog(g.size/512, 3))
	if err != nil {
		return err
	}
	edits, err := g.edit(ctx, first, "/demo/notes.txt", "And a second line, between run 2 and run 3.\n")
	if err != nil {
		return err
	}
	commands := append(edits, "write "+report+" /demo/report.log", "mkdir /demo/album", "ln /demo/photos.bin /demo/album/photos.bin", "unlink /demo/photos.bin")
	for range 20 {
		commands = append(commands, "rm "+g.take())
	}
	if err := g.apply(ctx, first, commands); err != nil {
		return err
	}
	return g.apply(ctx, second, []string{"write " + report + " /report.log"})
}

// thirdChange goes on with the files of the second one.
func (g *guest) thirdChange(ctx context.Context, first string) error {
	letters, err := g.put("letters.txt", accessLog(g.size/1024, 5))
	if err != nil {
		return err
	}
	return g.apply(ctx, first, []string{"write " + letters + " /demo/letters.txt", "rm " + g.take()})
}

// lastNote is what the guest writes before something happens, and again after it.
func (g *guest) lastNote(ctx context.Context, disk string) error {
	g.noted++
	name := fmt.Sprintf("last-note-%d.txt", g.noted)
	note, err := g.put(name, fmt.Appendf(nil, "Note %d.\n", g.noted))
	if err != nil {
		return err
	}
	return g.apply(ctx, disk, []string{"write " + note + " /demo/" + name})
}

// apply carries out debugfs commands and makes sure that the file system is whole afterwards.
func (g *guest) apply(ctx context.Context, disk string, commands []string) error {
	if err := g.change(ctx, disk, commands); err != nil {
		return err
	}
	return g.check(ctx, disk)
}

// take picks a file of the tree that no other change has touched.
func (g *guest) take() string {
	i := g.random.IntN(len(g.files))
	path := g.files[i]
	g.files = slices.Delete(g.files, i, i+1)
	return path
}

// move gives a file of the tree another name. Debugfs counts no links, so that these two leave the count right.
func (g *guest) move() []string {
	path := g.take()
	return []string{"ln " + path + " /demo/moved" + strings.ReplaceAll(path, "/", "-"), "unlink " + path}
}

// edit appends a line to a file. Editors write a new file in the old one's place; so does this.
func (g *guest) edit(ctx context.Context, image, path, line string) ([]string, error) {
	local := filepath.Join(g.scratch, "edited-"+filepath.Base(path))
	if err := g.extract(ctx, image, path, local); err != nil {
		return nil, err
	}
	content, err := os.ReadFile(local)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(local, append(content, line...), 0o600); err != nil {
		return nil, err
	}
	return []string{"rm " + path, "write " + local + " " + path}, nil
}

// put makes a file that debugfs can write into an image.
func (g *guest) put(name string, content []byte) (string, error) {
	path := filepath.Join(g.scratch, name)
	return path, os.WriteFile(path, content, 0o600)
}

// noise is bytes that neither compress nor repeat.
func noise(n int64, seed byte) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p) // never fails
	return p
}

// accessLog is text that compresses as logs do.
func accessLog(n int64, seed uint64) []byte {
	random := rand.New(rand.NewPCG(seed, seed))
	var b bytes.Buffer
	for int64(b.Len()) < n {
		fmt.Fprintf(&b, "192.0.2.%d - - [22/Nov/2026:%02d:%02d:%02d +0000] \"GET /article/%d HTTP/1.1\" 200 %d\n",
			random.IntN(256), random.IntN(24), random.IntN(60), random.IntN(60), random.IntN(1e6), random.IntN(1e5))
	}
	return b.Bytes()[:n]
}
