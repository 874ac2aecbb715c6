package xenstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Read returns a node's value. The error is fs.ErrNotExist when there is no such node.
func (c *Client) Read(ctx context.Context, path string) (string, error) {
	value, err := c.request(ctx, TypeRead, path, terminated(path))
	return string(value), err
}

// Write sets a node's value and makes the nodes above it where they are missing. The error is fs.ErrPermission when the guest may
// not write there, and ErrQuota when the value does not fit a request.
func (c *Client) Write(ctx context.Context, path, value string) error {
	_, err := c.request(ctx, TypeWrite, path, append(terminated(path), value...))
	return err
}

// Mkdir makes a node, with an empty value, and those above it; nodes that exist stay as they are.
func (c *Client) Mkdir(ctx context.Context, path string) error {
	_, err := c.request(ctx, TypeMkdir, path, terminated(path))
	return err
}

// Rm removes a node and all below it. It is no error when there is no such node, but one, fs.ErrNotExist, when its parent is
// missing too.
func (c *Client) Rm(ctx context.Context, path string) error {
	_, err := c.request(ctx, TypeRm, path, terminated(path))
	return err
}

// Bounds of Directory.
const (
	maxDirectory = 64 << 10 // bytes of all names
	maxRereads   = 8        // of a directory that changes while it is read in parts
)

// Directory returns the names of a node's children, in the order that XenStore gives; fs.ErrNotExist when there is no such node.
// A list too long for one answer is read in parts, and again when it changed meanwhile.
func (c *Client) Directory(ctx context.Context, path string) ([]string, error) {
	answer, err := c.request(ctx, TypeDirectory, path, terminated(path))
	if refused, ok := errors.AsType[*Error](err); ok && refused.Code == "E2BIG" {
		for range maxRereads {
			names, complete, err := c.directoryParts(ctx, path)
			if err != nil || complete {
				return names, err
			}
		}
		return nil, fmt.Errorf("xenstore: directory %s changed %d times while it was read: try again", path, maxRereads)
	}
	if err != nil {
		return nil, err
	}
	return split(answer)
}

// directoryParts reads a directory from its beginning. complete is false when it changed on the way.
func (c *Client) directoryParts(ctx context.Context, path string) (names []string, complete bool, err error) {
	generation := ""
	for offset := 0; ; {
		answer, err := c.request(ctx, TypeDirectoryPart, path, terminated(path, strconv.Itoa(offset)))
		if err != nil {
			return nil, false, err
		}
		part, err := split(answer)
		if err != nil || len(part) < 2 {
			return nil, false, fmt.Errorf("%w: part of directory %s at %d is %.80q", ErrProtocol, path, offset, answer)
		}
		if offset > 0 && part[0] != generation {
			return nil, false, nil
		}
		generation = part[0]
		// The end of the list is told by an empty name.
		for _, name := range part[1:] {
			if name == "" {
				return names, true, nil
			}
			names = append(names, name)
			offset += len(name) + 1
		}
		if offset > maxDirectory {
			return nil, false, fmt.Errorf("xenstore: %w: directory %s has more than %d bytes of names", ErrQuota, path, maxDirectory)
		}
	}
}

// terminated joins strings, each ended by a NUL.
func terminated(parts ...string) []byte { return []byte(strings.Join(parts, "\x00") + "\x00") }

// split is the inverse of terminated.
func split(b []byte) ([]string, error) {
	if len(b) == 0 {
		return nil, nil
	}
	b, ok := bytes.CutSuffix(b, []byte{0})
	if !ok {
		return nil, fmt.Errorf("%w: list %.80q does not end with NUL", ErrProtocol, b)
	}
	return strings.Split(string(b), "\x00"), nil
}
