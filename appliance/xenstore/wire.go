package xenstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Type tells what a message is.
type Type uint32

// The types that this client uses, by their numbers in xs_wire.h.
const (
	TypeDirectory     Type = 1
	TypeRead          Type = 2
	TypeWatch         Type = 4
	TypeUnwatch       Type = 5
	TypeWrite         Type = 11
	TypeMkdir         Type = 12
	TypeRm            Type = 13
	TypeWatchEvent    Type = 15
	TypeError         Type = 16
	TypeDirectoryPart Type = 22
)

var typeNames = map[Type]string{
	TypeDirectory: "directory", TypeRead: "read", TypeWatch: "watch", TypeUnwatch: "unwatch", TypeWrite: "write", TypeMkdir: "mkdir",
	TypeRm: "rm", TypeWatchEvent: "watch event", TypeError: "error", TypeDirectoryPart: "directory part",
}

// String returns XenStore's word for the type.
func (t Type) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Sizes in bytes.
const (
	HeaderSize = 16
	// MaxPayload bounds what follows a header; a connection on which it is exceeded is dead.
	MaxPayload = 4096
	// MaxRequest bounds a whole request. The kernel's device collects it in a buffer of 4096 bytes, header included, which is less
	// than the protocol allows.
	MaxRequest = 4096
)

// ErrProtocol is what breaks the wire protocol. The connection is of no use afterwards.
var ErrProtocol = errors.New("XenStore protocol violated")

// Message is a request, its answer or a watch event. On the wire it is type, request, transaction and length of the payload as
// little-endian 32-bit numbers, then the payload.
type Message struct {
	Type        Type
	Request     uint32 // chosen by who asks, echoed in the answer; means nothing in a watch event
	Transaction uint32
	Payload     []byte
}

// Append appends the message's encoding.
func (m Message) Append(b []byte) []byte {
	for _, number := range []uint32{uint32(m.Type), m.Request, m.Transaction, uint32(len(m.Payload))} {
		b = binary.LittleEndian.AppendUint32(b, number)
	}
	return append(b, m.Payload...)
}

// ReadMessage reads one message. The error is io.EOF at an end between messages, io.ErrUnexpectedEOF within one, and ErrProtocol
// when a payload larger than MaxPayload is announced, before memory is taken for it.
func ReadMessage(r io.Reader) (Message, error) {
	var header [HeaderSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return Message{}, err
	}
	number := func(i int) uint32 { return binary.LittleEndian.Uint32(header[4*i:]) }
	m := Message{Type: Type(number(0)), Request: number(1), Transaction: number(2)}
	length := number(3)
	if length > MaxPayload {
		return Message{}, fmt.Errorf("%w: a payload of %d bytes is announced, more than %d", ErrProtocol, length, MaxPayload)
	}
	m.Payload = make([]byte, length)
	if _, err := io.ReadFull(r, m.Payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Message{}, err
	}
	return m, nil
}
