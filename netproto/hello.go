package netproto

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// Version of the protocol. Ends of one major version understand each other whatever their minor versions; a new major version
// is upgraded to before a run, never in it.
//
// A minor version may append fields to HELLO and give meaning to feature bits, nothing else. The frame header and the first 12
// bytes of HELLO (magic, major, minor) stay as they are in every version, so that a stranger can always be named.
//
// History:
//
//	1.0  the first
type Version struct{ Major, Minor uint16 }

// VersionMajor and VersionMinor are what this package speaks.
const (
	VersionMajor = 3
	VersionMinor = 0
)

var localVersion = Version{VersionMajor, VersionMinor}

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

const (
	helloMagic = "UNDRSTDY"
	// maxHello leaves later minor versions room to append fields.
	maxHello = 1 << 10
	// helloFixed is the length up to the token: magic, major, minor, features, window, length of token.
	helloFixed = 8 + 2 + 2 + 8 + 4 + 1
)

// hello is the first frame of either end.
type hello struct {
	version  Version
	features Features
	window   int
	token    []byte
	software string
}

func appendHello(b []byte, h hello) []byte {
	b = appendHeader(b, typeHello, helloFixed+len(h.token)+1+len(h.software))
	b = append(b, helloMagic...)
	b = binary.BigEndian.AppendUint16(b, h.version.Major)
	b = binary.BigEndian.AppendUint16(b, h.version.Minor)
	b = binary.BigEndian.AppendUint64(b, uint64(h.features))
	b = binary.BigEndian.AppendUint32(b, uint32(h.window))
	b = append(b, byte(len(h.token)))
	b = append(b, h.token...)
	b = append(b, byte(len(h.software)))
	return append(b, h.software...)
}

// parseHello reads a HELLO's payload. Of another major version nothing but the version is looked at: the error is then a
// *VersionError. The result shares no memory with payload.
func parseHello(payload []byte) (hello, error) {
	var h hello
	if len(payload) < 12 || string(payload[:8]) != helloMagic {
		return h, violation("the first frame is not an Understudy HELLO")
	}
	h.version.Major = binary.BigEndian.Uint16(payload[8:])
	h.version.Minor = binary.BigEndian.Uint16(payload[10:])
	if h.version.Major != VersionMajor {
		return h, &VersionError{Local: localVersion, Remote: h.version}
	}
	if len(payload) < helloFixed {
		return h, violation("HELLO of %d bytes is too short", len(payload))
	}
	h.features = Features(binary.BigEndian.Uint64(payload[12:]))
	window := binary.BigEndian.Uint32(payload[20:])
	if window < MinWindow || window > MaxWindow {
		return h, violation("HELLO offers a window of %d bytes, not %d to %d", window, MinWindow, MaxWindow)
	}
	h.window = int(window)
	token, rest, ok := cutField(payload[24:], MaxToken)
	if !ok {
		return h, violation("HELLO with a cut or long token (at most %d bytes)", MaxToken)
	}
	software, rest, ok := cutField(rest, MaxSoftware)
	if !ok || !utf8.Valid(software) {
		return h, violation("HELLO's software is not UTF-8 of at most %d bytes", MaxSoftware)
	}
	if len(rest) > 0 && h.version.Minor <= VersionMinor {
		return h, violation("HELLO of version %v with %d bytes too many", h.version, len(rest))
	}
	h.token, h.software = bytes.Clone(token), string(software)
	return h, nil
}

// cutField takes a length byte and so many bytes off the front.
func cutField(b []byte, limit int) (field, rest []byte, ok bool) {
	if len(b) == 0 {
		return nil, nil, false
	}
	n := int(b[0])
	if n > limit || n > len(b)-1 {
		return nil, nil, false
	}
	return b[1 : 1+n], b[1+n:], true
}
