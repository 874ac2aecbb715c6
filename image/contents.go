package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Contents is the list of contents that stands beside an image, contents.json.
type Contents struct {
	// Version of the image, which the imported template carries: the product's version and the beginning of the boot
	// disk's SHA-256.
	Version string `json:"version"`
	// Product is the version of the delegate in it.
	Product string `json:"product"`
	// KernelRelease is what uname -r tells in the delegate.
	KernelRelease string `json:"kernel_release"`
	CommandLine   string `json:"command_line"`
	// Modules are those that PID 1 loads, in order.
	Modules    []string    `json:"modules"`
	Files      []File      `json:"files"`
	Components []Component `json:"components"`
}

// File is one file of the image as it was written.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Component is something made elsewhere whose bytes are in the image, or that made some of them.
type Component struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	// Licence as an SPDX expression, or as Debian's copyright file names it.
	Licence string `json:"licence"`
	// Kind is 'debian', 'go-module' or 'toolchain'.
	Kind string `json:"kind"`
	// Source package and digest of the archive, of Debian's packages; the digest as in go.sum of Go's modules.
	Source string `json:"source,omitempty"`
	Digest string `json:"digest,omitempty"`
}

// describe measures a file.
func describe(path string) (File, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return File{}, fmt.Errorf("image: %w", err)
	}
	digest := sha256.Sum256(content)
	return File{Name: filepath.Base(path), Size: int64(len(content)), SHA256: hex.EncodeToString(digest[:])}, nil
}

func (c Contents) write(path string) error {
	text, err := json.MarshalIndent(c, "", "\t")
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	return nil
}
