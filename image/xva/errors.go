package xva

import (
	"errors"
	"strconv"
)

// The kinds of flaws. Errors of this package about the content of an XVA are of type *Error and match exactly one of them
// with errors.Is; other errors are those of the underlying reader or writer.
var (
	ErrNoArchive  = errors.New("neither a tar archive nor one packed by gzip or zstd")
	ErrFormat     = errors.New("malformed XVA")
	ErrField      = errors.New("a field is missing in the XVA") // Error.Expected is its name
	ErrUnexpected = errors.New("unexpected file in the XVA")    // Error.Expected and Found are file names
	ErrReference  = errors.New("reference to an object that the XVA does not hold")
	ErrOrder      = errors.New("chunks of a disk out of order")
	ErrChecksum   = errors.New("checksum mismatch")
	ErrSize       = errors.New("size out of bounds")
	ErrTruncated  = errors.New("truncated XVA")
)

// Error is a flaw in an XVA.
type Error struct {
	Kind     error  // one of the kinds above
	File     string // the file of the archive that has the flaw; may be empty
	Expected string // what should stand there: a file name, a checksum; may be empty
	Found    string // what does; of ErrReference the id that leads nowhere
	Detail   string // cause in words; may be empty
}

// Error names the kind, the place and the cause.
func (e *Error) Error() string {
	text := "xva: " + e.Kind.Error()
	if e.File != "" {
		text += ": " + e.File
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	if e.Expected != "" {
		text += ": expected " + strconv.Quote(e.Expected)
	}
	if e.Found != "" {
		text += ": found " + strconv.Quote(e.Found)
	}
	return text
}

// Unwrap gives the kind.
func (e *Error) Unwrap() error { return e.Kind }

func malformed(file, detail string) error { return &Error{Kind: ErrFormat, File: file, Detail: detail} }
