package netproto

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

var (
	dialerHello = hello{version: Version{VersionMajor, 0}, features: 0x5, window: DefaultWindow, token: []byte("disk-0"), software: "understudy 1.0.0"}
	serverReply = hello{version: Version{VersionMajor, 0}, features: 0x4, window: MinWindow, software: "abd 1.0.0"}
)

func TestEncodersMatchTheSpecification(t *testing.T) {
	golden := Golden(t)
	for name, got := range map[string][]byte{
		"ping":           appendHeader(nil, typePing, 0),
		"pong":           appendHeader(nil, typePong, 0),
		"close":          appendHeader(nil, typeClose, 0),
		"window":         appendWindow(nil, 4<<20),
		"error":          appendError(nil, newRemoteError(FirstApplicationCode, "disk full")),
		"hello-dialer":   appendHello(nil, dialerHello),
		"hello-listener": appendHello(nil, serverReply),
		"application":    append(appendHeader(nil, 0x80, 4), 0xde, 0xad, 0xbe, 0xef),
	} {
		if want, ok := golden[name]; !ok || !bytes.Equal(got, want) {
			t.Errorf("%s is\n% x, in docs/protocol.md\n% x", name, got, want)
		}
	}
}

func TestDecodersMatchTheSpecification(t *testing.T) {
	golden := Golden(t)
	for name, want := range map[string]hello{"hello-dialer": dialerHello, "hello-listener": serverReply} {
		typ, length, err := parseHeader([HeaderSize]byte(golden[name]))
		if err != nil || typ != typeHello || length != len(golden[name])-HeaderSize {
			t.Fatalf("%s: header %v %d %v", name, typ, length, err)
		}
		got, err := parseHello(golden[name][HeaderSize:])
		if err != nil {
			t.Fatal(err)
		}
		if len(got.token) == 0 {
			got.token = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	if n, err := parseWindow(golden["window"][HeaderSize:]); n != 4<<20 || err != nil {
		t.Errorf("window: %d %v", n, err)
	}
	remote, err := parseError(golden["error"][HeaderSize:])
	if err != nil || *remote != (RemoteError{FirstApplicationCode, "disk full"}) {
		t.Errorf("error: %v %v", remote, err)
	}
}

func TestHelloOfALaterMinorVersionMayBeLonger(t *testing.T) {
	later := dialerHello
	later.version.Minor++
	payload := append(appendHello(nil, later)[HeaderSize:], "new field"...)
	if got, err := parseHello(payload); err != nil || got.software != later.software {
		t.Errorf("%+v %v", got, err)
	}
	payload = append(appendHello(nil, dialerHello)[HeaderSize:], "what?"...)
	if _, err := parseHello(payload); !errors.Is(err, ErrProtocol) {
		t.Errorf("excess bytes in our own version: %v", err)
	}
}

func TestHelloRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := hello{
			version:  Version{VersionMajor, rapid.Uint16().Draw(t, "minor")},
			features: Features(rapid.Uint64().Draw(t, "features")),
			window:   rapid.IntRange(MinWindow, MaxWindow).Draw(t, "window"),
			token:    rapid.SliceOfN(rapid.Byte(), 1, MaxToken).Draw(t, "token"),
			software: rapid.StringN(0, -1, MaxSoftware).Draw(t, "software"),
		}
		frame := appendHello(nil, want)
		got, err := parseHello(frame[HeaderSize:])
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v %v, want %+v", got, err, want)
		}
		// Every truncation is an error, never a panic or a shorter HELLO.
		cut := rapid.IntRange(0, len(frame)-HeaderSize-1).Draw(t, "cut")
		if got, err := parseHello(frame[HeaderSize : HeaderSize+cut]); !errors.Is(err, ErrProtocol) {
			t.Fatalf("cut to %d: %+v %v", cut, got, err)
		}
	})
}

func TestErrorMessagesAreCutAtACharacter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		message := rapid.String().Draw(t, "message") + strings.Repeat("é", rapid.IntRange(0, 700).Draw(t, "more"))
		got, err := parseError(appendError(nil, newRemoteError(7, message))[HeaderSize:])
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(message, got.Message) || len(got.Message) < min(len(message), MaxErrorMessage-utf8.UTFMax+1) {
			t.Fatalf("%q became %q", message, got.Message)
		}
	})
	if got := newRemoteError(7, "bad \xff byte").Message; !utf8.ValidString(got) {
		t.Errorf("%q is not UTF-8", got)
	}
}

func TestBuffersFitTheirFrames(t *testing.T) {
	for _, size := range []int{0, 1, 255, 256, 257, 512, 513, 64 << 10, 1<<20 - 1, 1 << 20, 1<<20 + 1, MaxPayload} {
		f := newFrame(nil, FirstApplication, size)
		if len(f.Payload) != size || len(f.buffer.bytes) > max(2*size, smallestBuffer) {
			t.Errorf("size %d: payload %d, buffer %d", size, len(f.Payload), len(f.buffer.bytes))
		}
		f.Release()
	}
}

func FuzzHeader(f *testing.F) {
	for _, name := range []string{"hello-dialer", "ping", "error", "window", "application"} {
		f.Add(Golden(f)[name][:HeaderSize])
	}
	f.Add([]byte{0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeaderSize {
			return
		}
		typ, length, err := parseHeader([HeaderSize]byte(b))
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			return
		}
		if length > MaxPayload || !bytes.Equal(appendHeader(nil, typ, length), b[:HeaderSize]) {
			t.Fatalf("% x accepted as %v of %d bytes", b[:HeaderSize], typ, length)
		}
	})
}

func FuzzHello(f *testing.F) {
	f.Add(Golden(f)["hello-dialer"][HeaderSize:])
	f.Add(Golden(f)["hello-listener"][HeaderSize:])
	f.Add([]byte("UNDRSTDY\x00\x02\x00\x00"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		h, err := parseHello(payload)
		switch {
		case errors.Is(err, ErrProtocol), errors.Is(err, ErrVersion):
		case err != nil:
			t.Fatal(err)
		case !bytes.HasPrefix(payload, appendHello(nil, h)[HeaderSize:]):
			t.Fatalf("% x decodes to %+v, which encodes otherwise", payload, h)
		}
	})
}

func FuzzError(f *testing.F) {
	f.Add(Golden(f)["error"][HeaderSize:])
	f.Add([]byte{0, 1, 0xff})
	f.Fuzz(func(t *testing.T, payload []byte) {
		e, err := parseError(payload)
		if err == nil && !bytes.Equal(appendError(nil, e)[HeaderSize:], payload) {
			t.Fatalf("% x decodes to %v, which encodes otherwise", payload, e)
		}
	})
}

func FuzzWindow(f *testing.F) {
	f.Add(Golden(f)["window"][HeaderSize:])
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, payload []byte) {
		n, err := parseWindow(payload)
		if err == nil && (n < 1 || n > MaxWindow || !bytes.Equal(appendWindow(nil, n)[HeaderSize:], payload)) {
			t.Fatalf("% x decodes to %d", payload, n)
		}
	})
}
