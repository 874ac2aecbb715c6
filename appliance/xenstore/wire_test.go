package xenstore_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"testing"

	"github.com/understudy-dr/understudy/appliance/xenstore"
)

// golden are messages as xs_wire.h has them.
var golden = map[string]struct {
	message xenstore.Message
	hex     string
}{
	"write": {
		xenstore.Message{Type: xenstore.TypeWrite, Request: 7, Payload: []byte("data/ts\x001")},
		"0b000000" + "07000000" + "00000000" + "09000000" + "646174612f7473" + "00" + "31",
	},
	"event": {
		xenstore.Message{Type: xenstore.TypeWatchEvent, Request: 0x01020304, Transaction: 5, Payload: []byte("a\x002\x00")},
		"0f000000" + "04030201" + "05000000" + "04000000" + "61003200",
	},
	"empty": {
		xenstore.Message{Type: xenstore.TypeRead, Request: 1, Payload: []byte{}},
		"02000000" + "01000000" + "00000000" + "00000000",
	},
}

func TestGolden(t *testing.T) {
	for name, test := range golden {
		t.Run(name, func(t *testing.T) {
			if got := hex.EncodeToString(test.message.Append(nil)); got != test.hex {
				t.Errorf("encoded as %s, want %s", got, test.hex)
			}
			encoded, err := hex.DecodeString(test.hex)
			if err != nil {
				t.Fatal(err)
			}
			got, err := xenstore.ReadMessage(bytes.NewReader(encoded))
			if err != nil || got.Type != test.message.Type || got.Request != test.message.Request ||
				got.Transaction != test.message.Transaction || !bytes.Equal(got.Payload, test.message.Payload) {
				t.Errorf("decoded as %+v, %v, want %+v", got, err, test.message)
			}
		})
	}
}

// The numbers of the protocol are fixed for good.
func TestTypes(t *testing.T) {
	for number, name := range map[xenstore.Type]string{
		1: "directory", 2: "read", 4: "watch", 5: "unwatch", 11: "write", 12: "mkdir", 13: "rm", 15: "watch event", 16: "error", 22: "directory part", 99: "type 99",
	} {
		if got := number.String(); got != name {
			t.Errorf("type %d is %q, want %q", uint32(number), got, name)
		}
	}
}

func TestReadMessageRefuses(t *testing.T) {
	whole := xenstore.Message{Type: xenstore.TypeRead, Request: 1, Payload: []byte("vm\x00")}.Append(nil)
	for name, test := range map[string]struct {
		bytes []byte
		want  error
	}{
		"nothing":           {nil, io.EOF},
		"half a header":     {whole[:9], io.ErrUnexpectedEOF},
		"header alone":      {whole[:16], io.ErrUnexpectedEOF},
		"half a payload":    {whole[:17], io.ErrUnexpectedEOF},
		"a byte too many":   {xenstore.Message{Payload: make([]byte, 4097)}.Append(nil), xenstore.ErrProtocol},
		"4 GiB, none there": {bytes.Repeat([]byte{0xff}, 16), xenstore.ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			if m, err := xenstore.ReadMessage(bytes.NewReader(test.bytes)); !errors.Is(err, test.want) {
				t.Errorf("read %+v, %v, want %v", m, err, test.want)
			}
		})
	}
	if m, err := xenstore.ReadMessage(bytes.NewReader(xenstore.Message{Payload: make([]byte, 4096)}.Append(nil))); err != nil || len(m.Payload) != 4096 {
		t.Errorf("the largest payload: %d bytes, %v", len(m.Payload), err)
	}
}

// Whatever is read encodes to the bytes it was read from.
func FuzzReadMessage(f *testing.F) {
	for _, test := range golden {
		f.Add(test.message.Append(nil))
	}
	f.Add(bytes.Repeat([]byte{0xff}, 20))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		m, err := xenstore.ReadMessage(r)
		if err != nil {
			return
		}
		if got, want := m.Append(nil), b[:len(b)-r.Len()]; !bytes.Equal(got, want) {
			t.Errorf("%x was read and encodes to %x", want, got)
		}
	})
}
