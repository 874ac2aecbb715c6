package state

import (
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Errors on which callers decide, to be tested with errors.Is.
var (
	ErrNotFound    = errors.New("not found")
	ErrExists      = errors.New("exists already")
	ErrInUse       = errors.New("still in use")
	ErrBusy        = errors.New("another run is at work on this replica, or deploys to this pool")
	ErrNotOwner    = errors.New("the run belongs to another process")
	ErrForeignHost = errors.New("the process is on another host")
	ErrEnded       = errors.New("the run has ended")
	ErrCancelled   = errors.New("cancelled by the administrator")
	ErrDisabled    = errors.New("the job is disabled: enable it first")
	ErrConflict    = errors.New("somebody else changed it meanwhile: look at it again")
	ErrNoAddress   = errors.New("no free address")
	ErrNewerSchema = errors.New("the state directory was written by a newer understudy")
	ErrWrongKey    = errors.New("the key file does not open the secrets of this state directory")
	ErrKeyFile     = errors.New("key file unusable")
)

// BusyError names the run that stands in the way. It is an ErrBusy.
type BusyError struct {
	Run   string
	Owner Owner
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("run %[1]s of process %[2]d on %[3]s is unfinished: wait for it, have it stop with 'understudy run cancel %[1]s', or recover it with 'understudy gc' when that process is dead",
		e.Run, e.Owner.PID, e.Owner.Host)
}

// Is makes errors.Is(err, ErrBusy) true.
func (e *BusyError) Is(target error) bool { return target == ErrBusy }

// isUnique reports whether err is a violated primary key or unique index.
func isUnique(err error) bool {
	return hasCode(err, sqlite3.SQLITE_CONSTRAINT_UNIQUE) || hasCode(err, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

// isForeignKey reports whether err is a violated reference.
func isForeignKey(err error) bool { return hasCode(err, sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY) }

func hasCode(err error, code int) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code() == code
}
