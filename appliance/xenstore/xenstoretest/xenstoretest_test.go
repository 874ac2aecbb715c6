package xenstoretest_test

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/appliance/xenstore"
	"github.com/understudy-dr/understudy/appliance/xenstore/xenstoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a test that notes its failures.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	failures []string
}

func (r *recorder) Errorf(format string, arguments ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, arguments...))
}

func (r *recorder) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.failures, "; ")
}

func read(path string, number uint32) []byte {
	return xenstore.Message{Type: xenstore.TypeRead, Request: number, Payload: []byte(path + "\x00")}.Append(nil)
}

// What a bad client does fails its test.
func TestJudgesTheClient(t *testing.T) {
	write := func(t *testing.T, w io.Writer, b []byte) {
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		misbehave func(*testing.T, io.ReadWriter)
		failure   string
	}{
		"two in flight": {func(t *testing.T, c io.ReadWriter) {
			write(t, c, read("vm", 1))
			write(t, c, read("vm", 2))
		}, "before the answer"},
		"two in one write": {func(t *testing.T, c io.ReadWriter) { write(t, c, append(read("vm", 1), read("vm", 2)...)) }, "one whole request"},
		"in two writes":    {func(t *testing.T, c io.ReadWriter) { write(t, c, read("vm", 1)[:17]) }, "one whole request"},
		"too large":        {func(t *testing.T, c io.ReadWriter) { write(t, c, read(strings.Repeat("x", 4080), 1)) }, "does not fit"},
	} {
		t.Run(name, func(t *testing.T) {
			tb := &recorder{TB: t}
			store := xenstoretest.New(tb)
			release := store.Hold()
			connection := store.Connect()
			defer release()
			test.misbehave(t, connection)
			for deadline := time.Now().Add(5 * time.Second); !strings.Contains(tb.all(), test.failure); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("failures are %q, want %q among them", tb.all(), test.failure)
				}
			}
		})
	}
}

// Requests that this client never makes are refused as the daemon would.
func TestRefusals(t *testing.T) {
	store := xenstoretest.New(t)
	store.Write("vm", "/vm/1")
	for name, test := range map[string]struct {
		request xenstore.Message
		code    string
	}{
		"no NUL":           {xenstore.Message{Type: xenstore.TypeRead, Payload: []byte("vm")}, "EINVAL"},
		"no path":          {xenstore.Message{Type: xenstore.TypeRead, Payload: []byte("\x00")}, "EINVAL"},
		"watch no token":   {xenstore.Message{Type: xenstore.TypeWatch, Payload: []byte("vm\x00")}, "EINVAL"},
		"unwatch unset":    {xenstore.Message{Type: xenstore.TypeUnwatch, Payload: []byte("vm\x001\x00")}, "ENOENT"},
		"negative offset":  {xenstore.Message{Type: xenstore.TypeDirectoryPart, Payload: []byte("vm\x00-1\x00")}, "EINVAL"},
		"another domain":   {xenstore.Message{Type: xenstore.TypeRead, Payload: []byte("/local/domain/77/vm\x00")}, "EACCES"},
		"unknown type":     {xenstore.Message{Type: 99, Payload: []byte("vm\x00")}, "ENOSYS"},
		"the host's value": {xenstore.Message{Type: xenstore.TypeWrite, Payload: []byte("vm\x002")}, "EACCES"},
	} {
		t.Run(name, func(t *testing.T) {
			connection := store.Connect()
			if _, err := connection.Write(test.request.Append(nil)); err != nil {
				t.Fatal(err)
			}
			answer, err := xenstore.ReadMessage(connection)
			if err != nil || answer.Type != xenstore.TypeError || string(answer.Payload) != test.code+"\x00" {
				t.Errorf("answer is %v %q, %v, want %s", answer.Type, answer.Payload, err, test.code)
			}
		})
	}
}
