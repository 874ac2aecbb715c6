package lease

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Prefix begins the keys of a lease in other_config; the number of the entry follows.
const Prefix = "understudy:lease."

// released stands in an entry in place of the time.
const released = "released"

// Holder says who has a lease.
type Holder struct {
	Process string `json:"process"` // as the holder names its process; no blanks
	Run     string `json:"run"`     // id
}

// validate refuses what could not be read again.
func (h Holder) validate() error {
	for _, word := range []string{h.Process, h.Run} {
		if len(strings.Fields(word)) != 1 || strings.TrimSpace(word) != word {
			return fmt.Errorf("a lease for process %q, run %q: neither may be empty or have blanks", h.Process, h.Run)
		}
	}
	return nil
}

// Entry is one entry of the log. The zero Entry stands for an empty log.
type Entry struct {
	Number uint64 `json:"number"`
	Holder
	Until time.Time `json:"until,omitzero"` // by the pool's clock; zero: the lease is free

	token string
}

// Free reports whether nobody has the lease, whatever the time.
func (e Entry) Free() bool { return e.Until.IsZero() }

// Unclean reports whether what its holder did may go on: it did not give the lease back.
func (e Entry) Unclean() bool { return e.Number > 0 && (!e.Free() || e.token == "") }

// is reports whether two entries are one.
func (e Entry) is(other Entry) bool { return e.Number == other.Number && e.value() == other.value() }

func (e Entry) key() string { return Prefix + strconv.FormatUint(e.Number, 10) }

func (e Entry) value() string {
	until := released
	if !e.Free() {
		until = e.Until.UTC().Format(time.RFC3339)
	}
	return strings.Join([]string{until, e.token, e.Run, e.Process}, " ")
}

// parse reads an entry. One that nobody wrote like that is held by nobody.
func parse(number uint64, value string) Entry {
	e := Entry{Number: number}
	fields := strings.Fields(value)
	if len(fields) != 4 {
		return e
	}
	until, err := time.Parse(time.RFC3339, fields[0])
	if err != nil && fields[0] != released {
		return e
	}
	e.Until, e.token, e.Run, e.Process = until, fields[1], fields[2], fields[3]
	return e
}

// log gives the entries of an other_config by their numbers.
func log(otherConfig map[string]string) map[uint64]Entry {
	entries := map[uint64]Entry{}
	for key, value := range otherConfig {
		text, ok := strings.CutPrefix(key, Prefix)
		if !ok {
			continue
		}
		if number, err := strconv.ParseUint(text, 10, 64); err == nil && strconv.FormatUint(number, 10) == text {
			entries[number] = parse(number, value)
		}
	}
	return entries
}

// Newest is the entry that counts; zero when there is none.
func Newest(otherConfig map[string]string) Entry { return newest(log(otherConfig)) }

func newest(entries map[uint64]Entry) (found Entry) {
	for _, e := range entries {
		if e.Number >= found.Number {
			found = e
		}
	}
	return found
}

// BusyError says that another one has the lease.
type BusyError struct{ Entry Entry }

func (e *BusyError) Error() string {
	return fmt.Sprintf("run %s of process %s has the lease until %s by the pool's clock, and renews it",
		e.Entry.Run, e.Entry.Process, e.Entry.Until.UTC().Format(time.RFC3339))
}

// LostError says that a lease was lost: nothing may be changed on the strength of it any more.
type LostError struct{ Cause string }

func (e *LostError) Error() string { return "the lease of the replica was lost: " + e.Cause }
