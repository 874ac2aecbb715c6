package wire_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen/wire"
)

func TestMessages(t *testing.T) {
	var b bytes.Buffer
	request := wire.Request{ID: 7, Call: wire.CallCreate, Create: &wire.Domain{
		Name: "a", UUID: "u", Mode: wire.PVH, Memory: 256, MACs: []string{"00:16:3e:00:00:01"},
		Disks: []wire.Disk{{Serial: "s", Device: "d0p0", ReadOnly: true}}, Store: map[string]string{"vm-data/a": "line\nbreak"},
	}}
	if err := wire.Write(&b, request); err != nil {
		t.Fatal(err)
	}
	if strings.Count(b.String(), "\n") != 1 {
		t.Errorf("not one line: %q", b.String())
	}
	var got wire.Request
	r := wire.NewReader(&b)
	if err := r.Read(&got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(request, got); diff != "" {
		t.Error(diff)
	}
	if err := r.Read(&got); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestLimits(t *testing.T) {
	long := wire.Message{Event: &wire.Event{Console: make([]byte, wire.MaxLine)}}
	if err := wire.Write(io.Discard, long); err == nil {
		t.Error("a message longer than a line was written")
	}
	for name, line := range map[string]string{"long": strings.Repeat("x", wire.MaxLine+1) + "\n", "broken": "{\"id\":\n"} {
		if err := wire.NewReader(strings.NewReader(line)).Read(new(wire.Request)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"reply":{"id":1,"error":"x"}}` + "\n" + `{"event":{"name":"tree","domain":"g","tree":{"vm-data":""}}}`))
	f.Add([]byte(`{"reply":`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := wire.NewReader(bytes.NewReader(data))
		for range 100 {
			var m wire.Message
			if err := r.Read(&m); errors.Is(err, io.EOF) {
				return
			} else if err == nil {
				if err := wire.Write(io.Discard, m); err != nil && len(data) < wire.MaxLine/8 {
					t.Fatal(err)
				}
			}
		}
	})
}
