package control

import (
	"encoding/hex"
	"errors"
	"log/slog"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/transfer"
)

// State is where a task stands. A task moves forward only, but for a transfer whose connection was cut: it waits again.
type State string

// The states of a task.
const (
	StateWaiting   State = "waiting" // for what TaskStatus.Waiting says
	StateRunning   State = "running"
	StateDone      State = "done"
	StateFailed    State = "failed"
	StateCancelled State = "cancelled"
)

// Ended reports whether the task is over.
func (s State) Ended() bool { return s == StateDone || s == StateFailed || s == StateCancelled }

// TaskStatus describes a task.
type TaskStatus struct {
	ID    string `json:"id"`
	Kind  Kind   `json:"kind"`
	State State  `json:"state"`
	// Waiting says what for, in words.
	Waiting string `json:"waiting,omitempty"`
	// Error is the cause and the mend of a failure.
	Error string `json:"error,omitempty"`
	// Root is that of what a scan or send read, or what an untrusted receive verified. There is none when the task did not start at
	// the beginning.
	Root manifest.Digest `json:"root,omitzero"`
	// Result is the digest over everything that was settled since the start or the last cut, equal at both ends. A send has one for each sink.
	Result manifest.Digest `json:"result,omitzero"`
	// Trusted tells, of a receive, that its sender did not have it scanned.
	Trusted bool `json:"trusted,omitempty"`
	// Cuts is how often a connection was lost and both ends went on; CutCause what the last one was lost by.
	Cuts     int    `json:"cuts,omitempty"`
	CutCause string `json:"cut_cause,omitempty"`
	// Counters of this end, over all attempts when it was cut; size and progress are those of the disk. Those of a send count reading and hashing; verdicts and the wire stand with the sinks.
	Counters transfer.Counters `json:"counters"`
	Sinks    []SinkStatus      `json:"sinks,omitempty"` // of a send, in the specification's order
	Hint     *HintStatus       `json:"hint,omitempty"`  // of a task with a hint, once it has ended
	// Reached bounds what a transfer may have written, once it has ended: nothing at or above this extent. nil when that is not known.
	Reached *uint32 `json:"reached,omitempty"`
	// Suspect tells, of a task that failed, that something was not as it must be: content that is not what its digest says, a peer that
	// breaks the protocol, a defect. What was recorded of its disk is then not to be relied upon.
	Suspect bool `json:"suspect,omitempty"`
	// Unmet tells, of a task that failed, that nobody answered where it was to dial its peer; Error has the last attempt.
	Unmet bool `json:"unmet,omitempty"`
	// Verified is what a verify found, once it is done.
	Verified *transfer.VerifyResult `json:"verified,omitempty"`
}

// SinkStatus describes one sink of a send.
type SinkStatus struct {
	Error    string            `json:"error,omitempty"`
	Result   manifest.Digest   `json:"result,omitzero"`
	Counters transfer.Counters `json:"counters"`
}

// Token is a secret that joins the two ends of a data connection. In JSON it is hexadecimal; printed or logged it is hidden.
type Token []byte

// MarshalText returns the token in hexadecimal, for the wire alone.
func (t Token) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, t), nil }

// UnmarshalText is the inverse of MarshalText. Its error does not repeat the text.
func (t *Token) UnmarshalText(text []byte) error {
	token, err := hex.DecodeString(string(text))
	if err != nil {
		return errors.New("a token is written in hexadecimal")
	}
	*t = token
	return nil
}

// String hides the token.
func (t Token) String() string { return "token:hidden" }

// GoString hides the token.
func (t Token) GoString() string { return t.String() }

// LogValue hides the token.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }
