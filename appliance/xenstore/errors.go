package xenstore

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Errors of a connection.
var (
	// ErrClosed is returned after Client.Close.
	ErrClosed = errors.New("connection to XenStore is closed")
	// ErrNoAnswer is a request that XenStore did not answer in time.
	ErrNoAnswer = errors.New("XenStore does not answer: see whether xenstored lives in the host's domain 0")
	// ErrQuota is a limit that XenStore sets to each guest: number of nodes or watches, or size of a value.
	ErrQuota = errors.New("over the guest's XenStore quota")
)

// Error is XenStore's refusal of a request. By errors.Is it equals fs.ErrNotExist, fs.ErrPermission, fs.ErrExist, fs.ErrInvalid or
// ErrQuota where its code means that.
type Error struct {
	Request Type
	Path    string
	Code    string // the name of an errno value, such as "ENOENT"
}

// codes maps codes to standard errors, and tells what may mend them. EQUOTA is the word of the OCaml xenstored, which XenServer and
// XCP-ng run; C xenstored says ENOSPC or E2BIG.
var codes = map[string]struct {
	is   error
	mend string
}{
	"ENOENT": {fs.ErrNotExist, "no such path"},
	"EACCES": {fs.ErrPermission, "the host does not permit it to this guest"},
	"EPERM":  {fs.ErrPermission, "the host does not permit it to this guest"},
	"EEXIST": {fs.ErrExist, "the path exists"},
	"EINVAL": {fs.ErrInvalid, "the host takes the request for malformed"},
	"EQUOTA": {ErrQuota, "too many nodes or watches: remove some, or raise the host's quota"},
	"ENOSPC": {ErrQuota, "too many nodes or watches: remove some, or raise the host's quota"},
	"E2BIG":  {ErrQuota, "too large: keep values below 1 KiB and watches few"},
}

// Error implements error.
func (e *Error) Error() string {
	text := fmt.Sprintf("xenstore: %v %s: %s", e.Request, e.Path, e.Code)
	if known, ok := codes[e.Code]; ok {
		text += ": " + known.mend
	}
	return text
}

// Is tells whether the code means the target.
func (e *Error) Is(target error) bool {
	known, ok := codes[e.Code]
	return ok && known.is == target
}

// parseError reads the payload of a refusal: a name such as ENOENT, and a NUL.
func parseError(request Type, path string, payload []byte) error {
	code := strings.TrimSuffix(string(payload), "\x00")
	foreign := func(r rune) bool { return (r < 'A' || r > 'Z') && (r < '0' || r > '9') }
	if !strings.HasPrefix(code, "E") || len(code) > 16 || strings.ContainsFunc(code, foreign) {
		return fmt.Errorf("%w: %.40q is no error code", ErrProtocol, code)
	}
	return &Error{Request: request, Path: path, Code: code}
}
