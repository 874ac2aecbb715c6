package xenstore

import (
	"fmt"
	"io/fs"
	"strings"
)

// Bounds of a path in bytes (xs_wire.h).
const (
	maxRelativePath = 2048
	maxAbsolutePath = 3072
)

// pathCharacters may stand in a path; others can make even the host's tools fail (xapi-facts §7.1).
const pathCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_@"

// checkPath returns an error, which is fs.ErrInvalid, for a path that XenStore would refuse.
func checkPath(path string) error {
	limit := maxRelativePath
	if strings.HasPrefix(path, "/") {
		limit = maxAbsolutePath
	}
	switch {
	case path == "":
		return fmt.Errorf("%w: path is empty", fs.ErrInvalid)
	case len(path) > limit:
		return fmt.Errorf("%w: path has %d bytes, more than %d", fs.ErrInvalid, len(path), limit)
	case strings.ContainsFunc(path, func(r rune) bool { return !strings.ContainsRune(pathCharacters, r) }):
		return fmt.Errorf("%w: a path holds ASCII letters, digits and -/_@ alone", fs.ErrInvalid)
	case strings.Contains(path, "//") || path != "/" && strings.HasSuffix(path, "/"):
		return fmt.Errorf("%w: a path has neither empty parts nor a slash at its end", fs.ErrInvalid)
	}
	return nil
}
