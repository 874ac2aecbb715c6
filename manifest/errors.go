package manifest

import (
	"errors"
	"fmt"
)

// The errors that a caller decides on, to be tested with errors.Is. Errors of the storage below are wrapped and passed on.
var (
	// ErrCorrupt: stored bytes are not what was written. A manifest like that counts as absent: the disk must be scanned.
	ErrCorrupt = errors.New("corrupt")
	// ErrTruncated is an ErrCorrupt whose bytes end too early: the mark of a write that a crash cut short.
	ErrTruncated = fmt.Errorf("%w: ends too early", ErrCorrupt)
	// ErrVersion: the file was written by a newer version of the format.
	ErrVersion = errors.New("unsupported format version")
	// ErrKey: digests of another domain, or no key at all. A manifest like that counts as absent.
	ErrKey = errors.New("wrong digest key")
	// ErrInvalid: a value outside its limits, such as an absurd disk size, a generation of zero or a record out of order.
	ErrInvalid = errors.New("invalid")
	// ErrBase: a delta does not start where its base ends.
	ErrBase = errors.New("delta does not belong to this base")
	// ErrMissing: the content of an extent is known neither from the base nor from the changes; the extent must be scanned.
	ErrMissing = errors.New("extent missing")
)
