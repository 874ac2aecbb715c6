package netproto

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// HeaderSize is the length of a frame's header: type u8, flags u8, reserved u16, length u32, big endian.
	HeaderSize = 8
	// MaxPayload is the largest payload: 1 MiB of blocks, and 4 KiB for what is said about them.
	MaxPayload = 1<<20 + 4<<10
	// MaxErrorMessage is the longest message of an ERROR, in bytes.
	MaxErrorMessage = 1 << 10

	// frameOverhead is what a frame counts in a window or queue beside its payload. It covers the receiver's bookkeeping;
	// without it a peer could queue a million empty frames in one window.
	frameOverhead = 256
)

func frameCost(payload int) int { return payload + frameOverhead }

// Type is the kind of a frame. Types below FirstApplication are netproto's, those from FirstBulk on count in the window.
type Type uint8

// The ranges of types.
const (
	FirstApplication Type = 0x10
	FirstBulk        Type = 0x80
)

const (
	typeHello  Type = 1
	typePing   Type = 2
	typePong   Type = 3
	typeError  Type = 4
	typeWindow Type = 5
	typeClose  Type = 6
)

// Bulk tells whether frames of this type count in the window.
func (t Type) Bulk() bool { return t >= FirstBulk }

func (t Type) String() string {
	switch t {
	case typeHello:
		return "HELLO"
	case typePing:
		return "PING"
	case typePong:
		return "PONG"
	case typeError:
		return "ERROR"
	case typeWindow:
		return "WINDOW"
	case typeClose:
		return "CLOSE"
	}
	return fmt.Sprintf("0x%02x", uint8(t))
}

// maxLength is the largest payload of a type, 0 to MaxPayload, or -1 for a type that does not exist.
func (t Type) maxLength() int {
	switch {
	case t >= FirstApplication:
		return MaxPayload
	case t == typeHello:
		return maxHello
	case t == typePing, t == typePong, t == typeClose:
		return 0
	case t == typeError:
		return 2 + MaxErrorMessage
	case t == typeWindow:
		return 4
	}
	return -1
}

func appendHeader(b []byte, t Type, length int) []byte {
	b = append(b, byte(t), 0, 0, 0)
	return binary.BigEndian.AppendUint32(b, uint32(length))
}

// parseHeader checks all that can be checked before memory is taken for the payload.
func parseHeader(h [HeaderSize]byte) (t Type, length int, err error) {
	t = Type(h[0])
	limit := t.maxLength()
	size := binary.BigEndian.Uint32(h[4:])
	switch {
	case limit < 0:
		return 0, 0, violation("frame of unknown control type %v", t)
	case h[1] != 0:
		return 0, 0, violation("frame %v with unknown flags 0x%02x", t, h[1])
	case h[2] != 0 || h[3] != 0:
		return 0, 0, violation("frame %v with reserved bits 0x%02x%02x", t, h[2], h[3])
	case uint64(size) > uint64(limit):
		return 0, 0, violation("frame %v of %d bytes, more than %d", t, size, limit)
	}
	return t, int(size), nil
}

func appendWindow(b []byte, grant int) []byte {
	return binary.BigEndian.AppendUint32(appendHeader(b, typeWindow, 4), uint32(grant))
}

func parseWindow(payload []byte) (grant int, err error) {
	if len(payload) != 4 {
		return 0, violation("WINDOW of %d bytes, not 4", len(payload))
	}
	n := binary.BigEndian.Uint32(payload)
	if n == 0 || n > MaxWindow {
		return 0, violation("WINDOW grants %d bytes, not 1 to %d", n, MaxWindow)
	}
	return int(n), nil
}

// newRemoteError cuts a message to what an ERROR can carry, at the end of a character.
func newRemoteError(code ErrorCode, message string) *RemoteError {
	message = strings.ToValidUTF8(message, "\uFFFD")
	if len(message) > MaxErrorMessage {
		cut := MaxErrorMessage
		for !utf8.RuneStart(message[cut]) {
			cut--
		}
		message = message[:cut]
	}
	return &RemoteError{Code: code, Message: message}
}

func appendError(b []byte, e *RemoteError) []byte {
	b = appendHeader(b, typeError, 2+len(e.Message))
	b = binary.BigEndian.AppendUint16(b, uint16(e.Code))
	return append(b, e.Message...)
}

func parseError(payload []byte) (*RemoteError, error) {
	if len(payload) < 2 || len(payload) > 2+MaxErrorMessage || !utf8.Valid(payload[2:]) {
		return nil, violation("ERROR of %d bytes is not a code and at most %d bytes of UTF-8", len(payload), MaxErrorMessage)
	}
	return &RemoteError{Code: ErrorCode(binary.BigEndian.Uint16(payload)), Message: string(payload[2:])}, nil
}
