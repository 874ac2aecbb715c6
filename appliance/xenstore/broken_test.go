package xenstore_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/appliance/xenstore"
	"github.com/understudy-dr/understudy/appliance/xenstore/xenstoretest"
)

// What breaks a connection ends it, with the cause, for this caller and all later ones.
func TestBrokenConnection(t *testing.T) {
	message := func(kind xenstore.Type, number uint32, payload string) []byte {
		return xenstore.Message{Type: kind, Request: number, Payload: []byte(payload)}.Append(nil)
	}
	for name, test := range map[string]struct {
		bytes []byte // in place of the answer to request 1; nil cuts the connection
		want  error
	}{
		"cut":                  {nil, io.EOF},
		"another's answer":     {message(xenstore.TypeRead, 2, "x"), xenstore.ErrProtocol},
		"nobody's answer":      {message(xenstore.TypeRead, 0, "x"), xenstore.ErrProtocol},
		"another type":         {message(xenstore.TypeWrite, 1, "OK\x00"), xenstore.ErrProtocol},
		"event without token":  {message(xenstore.TypeWatchEvent, 0, "vm\x00"), xenstore.ErrProtocol},
		"event without NUL":    {message(xenstore.TypeWatchEvent, 0, "vm\x001"), xenstore.ErrProtocol},
		"event of nothing":     {message(xenstore.TypeWatchEvent, 0, ""), xenstore.ErrProtocol},
		"payload out of bound": {bytes.Repeat([]byte{0x7f}, 16), xenstore.ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			store := xenstoretest.New(t)
			store.Intercept(func(xenstore.Message, []byte) []byte { return test.bytes })
			client := xenstore.New(store.Connect(), xenstore.Options{})
			for range 2 {
				if got, err := client.Read(t.Context(), "vm"); !errors.Is(err, test.want) {
					t.Errorf("read %q, %v, want %v", got, err, test.want)
				}
			}
			<-client.Ended()
			if err := client.Close(); !errors.Is(err, test.want) {
				t.Errorf("Close returns %v, want %v", err, test.want)
			}
		})
	}
}

// An answer that is well formed but makes no sense fails its request alone.
func TestSenselessAnswer(t *testing.T) {
	client, store := start(t)
	store.Write("vm", "1")
	for _, code := range []string{"", "ENOENT", "\x00", "enoent\x00", "E NOENT\x00", "EVERYTHINGWENTWRONG\x00"} {
		store.Intercept(func(request xenstore.Message, _ []byte) []byte {
			return xenstore.Message{Type: xenstore.TypeError, Request: request.Request, Payload: []byte(code)}.Append(nil)
		})
		_, err := client.Read(t.Context(), "vm")
		if refused := new(xenstore.Error); code == "ENOENT" && !errors.As(err, &refused) || code != "ENOENT" && !errors.Is(err, xenstore.ErrProtocol) {
			t.Errorf("error text %q: %v", code, err)
		}
	}
	for _, list := range []string{"a\x00b", "a"} {
		store.Intercept(func(request xenstore.Message, _ []byte) []byte {
			return xenstore.Message{Type: request.Type, Request: request.Request, Payload: []byte(list)}.Append(nil)
		})
		if names, err := client.Directory(t.Context(), "vm"); !errors.Is(err, xenstore.ErrProtocol) {
			t.Errorf("directory %q is %q, %v", list, names, err)
		}
	}
	store.Intercept(nil)
	if got, err := client.Read(t.Context(), "vm"); err != nil || got != "1" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

// A file that the runtime polls, as the device is one, can be closed though a read of it blocks.
func TestCloseWhileFileIsRead(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	guest, host := os.NewFile(uintptr(pair[0]), "guest"), os.NewFile(uintptr(pair[1]), "host")
	defer host.Close()
	client := xenstore.New(guest, xenstore.Options{})
	time.Sleep(20 * time.Millisecond)
	closed := make(chan error, 1)
	go func() { closed <- client.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(within):
		t.Fatal("Close hangs on the read")
	}
}

// script is a connection whose other side says what it says, whatever is asked.
type script struct {
	io.Reader
	closed chan struct{}
}

func (s script) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	if err != nil {
		<-s.closed // all is said; the connection stays open
	}
	return n, err
}
func (s script) Write(b []byte) (int, error) { return len(b), nil }
func (s script) Close() error                { close(s.closed); return nil }

// Whatever the other side says, requests end in time and within bounds.
func FuzzClient(f *testing.F) {
	join := func(messages ...xenstore.Message) (b []byte) {
		for _, m := range messages {
			b = m.Append(b)
		}
		return b
	}
	f.Add(join(xenstore.Message{Type: xenstore.TypeDirectory, Request: 1, Payload: []byte("a\x00b\x00")}))
	f.Add(join(
		xenstore.Message{Type: xenstore.TypeError, Request: 1, Payload: []byte("E2BIG\x00")},
		xenstore.Message{Type: xenstore.TypeWatchEvent, Payload: []byte("a\x001\x00")},
		xenstore.Message{Type: xenstore.TypeDirectoryPart, Request: 2, Payload: []byte("7\x00a\x00")},
		xenstore.Message{Type: xenstore.TypeDirectoryPart, Request: 3, Payload: []byte("7\x00b\x00\x00")},
	))
	f.Add(join(xenstore.Message{Type: xenstore.TypeError, Request: 1, Payload: []byte("ENOENT\x00")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		client := xenstore.New(script{bytes.NewReader(b), make(chan struct{})}, xenstore.Options{AnswerTimeout: 5 * time.Millisecond})
		names, err := client.Directory(t.Context(), "data")
		total := 0
		for _, name := range names {
			total += len(name)
		}
		if err == nil && total > 64<<10 {
			t.Errorf("%d bytes of names", total)
		}
		if err := client.Close(); err != nil && !errors.Is(err, xenstore.ErrProtocol) {
			t.Error(err)
		}
	})
}
