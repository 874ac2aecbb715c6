package netproto

import (
	"fmt"
	"time"
	"unicode/utf8"
)

// Limits of Options, checked here and in the HELLO of a peer.
const (
	MaxToken    = 64  // bytes
	MaxSoftware = 128 // bytes, UTF-8

	// MinWindow lets any frame pass: half of it holds the largest, and a receiver that has as much unused grants it.
	MinWindow = 2 * (MaxPayload + frameOverhead)
	// MaxWindow bounds what a peer can make this end believe.
	MaxWindow = 1 << 30

	// QueueLimit is how many bytes of non-bulk frames, each counted with 256 bytes more than its payload, may wait for
	// ReadFrame before this end stops reading.
	QueueLimit = 4 << 20
)

// Defaults of Options.
const (
	// DefaultWindow is what a line of 100 ms and 600 Mbit/s holds, and doubled one of 1.2 Gbit/s; four disks share it.
	DefaultWindow           = 8 << 20
	DefaultHeartbeat        = 5 * time.Second
	DefaultTimeout          = 30 * time.Second
	DefaultHandshakeTimeout = 10 * time.Second
)

// Features are the optional parts of the application's protocol that an end offers, one a bit. A connection has those that
// both offer.
type Features uint64

// Has tells whether all of want are there.
func (f Features) Has(want Features) bool { return f&want == want }

// Options of a connection. The zero value is good; a zero field takes its default.
type Options struct {
	Software string   // what this end calls itself and its version, for the peer's reports
	Features Features // offered

	// Window is how many bytes of bulk frames the peer may have sent that were not yet released (Frame.Release); each frame
	// counts its payload and 256 bytes. MinWindow to MaxWindow. It doubles when the line, by its round trip and what the application
	// takes, holds more than half of it. Buffers are powers of two, so memory is at most twice that again.
	Window int

	Heartbeat        time.Duration // a line idle for so long gets a PING
	Timeout          time.Duration // no byte from the peer for so long is ErrPeerSilent; at least twice Heartbeat
	HandshakeTimeout time.Duration // for the connection, TLS and HELLO together

	// Token goes from the dialer to the listener, which may route the connection by it. At most MaxToken bytes, opaque here,
	// encrypted on the wire. A listener's is not sent.
	Token []byte
}

func (o Options) withDefaults() (Options, error) {
	if o.Window == 0 {
		o.Window = DefaultWindow
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = DefaultHeartbeat
	}
	if o.Timeout == 0 {
		o.Timeout = max(DefaultTimeout, 2*o.Heartbeat)
	}
	if o.HandshakeTimeout == 0 {
		o.HandshakeTimeout = DefaultHandshakeTimeout
	}
	switch {
	case len(o.Software) > MaxSoftware || !utf8.ValidString(o.Software):
		return o, fmt.Errorf("%w: Software must be UTF-8 of at most %d bytes, not %d", ErrOptions, MaxSoftware, len(o.Software))
	case len(o.Token) > MaxToken:
		return o, fmt.Errorf("%w: Token may have %d bytes, not %d", ErrOptions, MaxToken, len(o.Token))
	case o.Window < MinWindow || o.Window > MaxWindow:
		return o, fmt.Errorf("%w: Window must be %d to %d bytes, not %d", ErrOptions, MinWindow, MaxWindow, o.Window)
	case o.Heartbeat < 0 || o.HandshakeTimeout < 0:
		return o, fmt.Errorf("%w: Heartbeat and HandshakeTimeout cannot be negative", ErrOptions)
	case o.Timeout/2 < o.Heartbeat:
		return o, fmt.Errorf("%w: Timeout %v must be at least twice Heartbeat %v", ErrOptions, o.Timeout, o.Heartbeat)
	}
	return o, nil
}
