package control

import (
	"fmt"
	"net/http"
	"time"

	"github.com/understudy-dr/understudy/manifest"
)

const (
	// Port is the fixed TCP port on which a delegate listens, for control and data alike.
	Port = 7811
	// ALPN tells control connections from data connections.
	ALPN = "understudy-control/1"
)

// Limits that the delegate enforces. They are part of the API: the client keeps to them.
const (
	// MaxJSON bounds a JSON request body in bytes.
	MaxJSON = 64 << 10
	// MaxTask bounds that of POST tasks: all but a hint's map, in base64, stays under 8 KiB.
	MaxTask = 1 << 20
	// MaxBlocks bounds the body of PUT blocks in bytes; larger sets are sent in several requests.
	MaxBlocks = 1 << 20
	// MaxWait bounds one long poll. A client that wants to wait longer asks again.
	MaxWait = 60 * time.Second
	// MaxJournal bounds the body of a page of the journal in bytes.
	MaxJournal = 4 << 20
	// MaxTransfers is how many transfers run at once in a delegate; further tasks wait for their turn.
	MaxTransfers = 4
	// MaxSinks is how many sinks one send may have.
	MaxSinks = 8
	// MaxToken bounds a token in bytes.
	MaxToken = 64
)

// Headers of a page of the journal.
const (
	HeaderSequence  = "Understudy-Sequence"
	HeaderWatermark = "Understudy-Watermark"
	HeaderEnd       = "Understudy-End"
)

// Code tells a program what went wrong; the HTTP status only gives its class.
type Code string

// The codes of errors.
const (
	CodeInvalid   Code = "invalid"   // 400: the request is malformed or contradicts itself
	CodeForbidden Code = "forbidden" // 403: the caller is not this delegate's orchestrator
	CodeNotFound  Code = "not-found" // 404: no such task, device or endpoint
	CodeConflict  Code = "conflict"  // 409: the task exists with another specification, or its state does not allow this
	CodeInUse     Code = "in-use"    // 409: a task uses the device
	CodeKey       Code = "key"       // 409: no digest key, or another than the task names
	CodeGone      Code = "gone"      // 410: this part of the journal was acknowledged before and is freed
	CodeTooLarge  Code = "too-large" // 413: the body is larger than its limit
	CodeMismatch  Code = "mismatch"  // 422: block digests do not give the baseline's extent digest
	CodeMemory    Code = "memory"    // 507: the digests of this task do not fit beside what the delegate holds
	CodeInternal  Code = "internal"  // 500: a defect of the delegate
)

// Error is an answer of the delegate that is no success.
type Error struct {
	Status  int    `json:"-"` // HTTP status
	Code    Code   `json:"code"`
	Message string `json:"error"` // cause and mend
}

// NewError makes an answer of an error, with the HTTP status that goes with the code.
func NewError(code Code, err error) *Error {
	return &Error{Status: code.status(), Code: code, Message: err.Error()}
}

func (c Code) status() int {
	switch c {
	case CodeInvalid:
		return http.StatusBadRequest
	case CodeForbidden:
		return http.StatusForbidden
	case CodeNotFound:
		return http.StatusNotFound
	case CodeConflict, CodeInUse, CodeKey:
		return http.StatusConflict
	case CodeGone:
		return http.StatusGone
	case CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case CodeMismatch:
		return http.StatusUnprocessableEntity
	case CodeMemory:
		return http.StatusInsufficientStorage
	default:
		return http.StatusInternalServerError
	}
}

func (e *Error) Error() string { return fmt.Sprintf("%s (%s, %d)", e.Message, e.Code, e.Status) }

// Version is a version of the data protocol.
type Version struct {
	Major int `json:"major"`
	Minor int `json:"minor"`
}

// Status describes the delegate.
type Status struct {
	Version           string         `json:"version"` // of the software
	Protocol          Version        `json:"protocol"`
	Nonce             string         `json:"nonce"` // as read from the configuration
	ConfigurationHash string         `json:"configuration_hash"`
	VM                string         `json:"vm"` // uuid of the delegate's own VM
	UniqueDomainID    string         `json:"unique_domain_id"`
	Started           time.Time      `json:"started"`            // by the guest's clock, which may lie
	UptimeSeconds     float64        `json:"uptime_seconds"`     // by a clock that does not
	KeyID             manifest.KeyID `json:"key_id,omitzero"`    // of the digest key held, none when absent
	PeakRSSBytes      int64          `json:"peak_rss_bytes"`     // VmHWM
	MemoryLimitBytes  int64          `json:"memory_limit_bytes"` // GOMEMLIMIT
	// Limit is what PUT limit set, in bytes a second; 0: none.
	Limit int64 `json:"limit,omitempty"`
}

// LimitRequest is the body of PUT limit.
type LimitRequest struct {
	BytesPerSecond int64 `json:"bytes_per_second"` // 0: none
}

// KeyRequest is the body of PUT key.
type KeyRequest struct {
	Key []byte         `json:"key"` // base64 in JSON; never logged
	ID  manifest.KeyID `json:"id"`  // must be the key's own
}

// Device is a disk plugged into the delegate.
type Device struct {
	Number     int    `json:"number"` // VBD.userdevice
	Path       string `json:"path"`
	ReadOnly   bool   `json:"read_only"`         // as plugged
	SizeBytes  int64  `json:"size_bytes"`        // 0 when it cannot be opened
	SectorSize int    `json:"sector_size"`       // bytes
	InUse      bool   `json:"in_use"`            // by a task
	Detached   bool   `json:"detached"`          // closed for good, may be unplugged
	Problem    string `json:"problem,omitempty"` // why it cannot be opened
}

// Event is one line of the delegate's log.
type Event struct {
	Sequence int64     `json:"sequence"`
	Time     time.Time `json:"time"`
	Level    string    `json:"level"` // as log/slog names it
	Message  string    `json:"message"`
}

// EventPage is a run of events.
type EventPage struct {
	Events []Event `json:"events"`
	// Next is what to pass as 'after' next time.
	Next int64 `json:"next"`
	// Lost is how many events after 'after' had already left the ring.
	Lost int64 `json:"lost"`
}

// PowerOffRequest is the body of POST poweroff.
type PowerOffRequest struct {
	Cause string `json:"cause"`
}

// WantedPage lists extents whose block digests a trusted sender needs.
type WantedPage struct {
	// Sequence is what to pass as 'after' to be told only of later wants.
	Sequence int64    `json:"seq"`
	Extents  []uint32 `json:"extents"`
}
