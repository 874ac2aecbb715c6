package guestqemu

import (
	"context"
	"maps"
	"slices"
)

// Port is what a fake must be.
type Port = port

// OpenWith is Open with another port.
func OpenWith(ctx context.Context, o Options, openPort func(path string) (Port, error)) (*Guest, error) {
	return open(ctx, o, openPort)
}

// ParseConfiguration is the decoder of the fw_cfg item.
var ParseConfiguration = parseConfiguration

// Reencode decodes a line and, if it is a message, encodes it and decodes that again; same tells whether the two are equal.
func Reencode(line []byte) (again []byte, same bool, err error) {
	m, err := parseMessage(line)
	if err != nil {
		return nil, false, err
	}
	if again, err = m.line(); err != nil {
		return nil, false, err
	}
	n, err := parseMessage(again)
	return again, maps.Equal(m.Write, n.Write) && slices.Equal(m.Remove, n.Remove), err
}
