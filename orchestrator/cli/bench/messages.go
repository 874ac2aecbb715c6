package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

// role is which end of the transfer a process is.
type role string

const (
	sender   role = "sender"
	receiver role = "receiver"
)

// order is the first message to an end: all it needs to know. Keys travel in it, which is why it goes through a pipe and not
// through the command line.
type order struct {
	Role     role                 `json:"role"`
	Path     string               `json:"path"`
	Size     int64                `json:"size"` // logical size in bytes
	Buffered bool                 `json:"buffered"`
	Key      []byte               `json:"key"`  // of the digests
	Seed     []byte               `json:"seed"` // of this end's identity
	Peer     netproto.Fingerprint `json:"peer"`
	Trusted  bool                 `json:"trusted"`
	Tuning   transfer.Tuning      `json:"tuning"`

	Address  string `json:"address,omitempty"`  // sender: where the receiver listens
	Manifest string `json:"manifest,omitempty"` // trusted sender: file with the target's manifest
}

// start is the second message to an end: the clock runs.
type start struct{}

// answer is what an end says: once when it is ready, and once at its end. Error is set when it gives up.
type answer struct {
	Address string  `json:"address,omitempty"` // receiver, when ready
	Result  *result `json:"result,omitempty"`
	Error   string  `json:"error,omitempty"`
}

// result is what one end measured.
type result struct {
	transfer.Counters
	ReadBytes int64  `json:"read_bytes"` // from its disk
	WireBytes int64  `json:"wire_bytes"` // both ways
	PeakRSS   int64  `json:"peak_rss_bytes"`
	Digest    string `json:"digest"` // of the transfer, equal on both ends
}

// maxMessages bounds what an end reads from its parent, and the parent from an end.
const maxMessages = 1 << 20

// decoder reads messages from a pipe.
func decoder(r io.Reader) *json.Decoder { return json.NewDecoder(io.LimitReader(r, maxMessages)) }

// next reads an end's next answer. An end that closed its output died without a word.
func next(d *json.Decoder) (answer, error) {
	var a answer
	if err := d.Decode(&a); errors.Is(err, io.EOF) {
		return a, errors.New("the process ended without an answer; its standard error tells why")
	} else if err != nil {
		return a, fmt.Errorf("unreadable answer: %w", err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}
