package main

import (
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"strings"
	"testing"
	"time"
)

// answer is what a fake xenstored gives to a request.
type answer struct {
	kind uint32
	body string
}

// connect gives a store whose xenstored answers by a function; several answers are a watch event and the answer proper.
func connect(t *testing.T, changed func(string), serve func(kind, transaction uint32, body string) []answer) *store {
	t.Helper()
	ours, theirs := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			var header [16]byte
			if _, err := io.ReadFull(theirs, header[:]); err != nil {
				return
			}
			body := make([]byte, binary.LittleEndian.Uint32(header[12:]))
			if _, err := io.ReadFull(theirs, body); err != nil {
				return
			}
			for _, a := range serve(binary.LittleEndian.Uint32(header[:]), binary.LittleEndian.Uint32(header[8:]), string(body)) {
				binary.LittleEndian.PutUint32(header[:], a.kind)
				binary.LittleEndian.PutUint32(header[12:], uint32(len(a.body)))
				if _, err := theirs.Write(append(header[:], a.body...)); err != nil {
					return
				}
			}
		}
	}()
	t.Cleanup(func() {
		ours.Close()
		theirs.Close()
		<-ended
	})
	return newStore(ours, changed)
}

func TestStoreReadsTrees(t *testing.T) {
	nodes := map[string]string{"/d/1/vm-data": "", "/d/1/vm-data/a": "x", "/d/1/vm-data/dir": "", "/d/1/vm-data/dir/b": "y", "/d/1/name": "n"}
	s := connect(t, func(string) {}, func(kind, _ uint32, body string) []answer {
		path := strings.TrimRight(body, "\x00")
		value, ok := nodes[path]
		if !ok || strings.HasSuffix(path, "/gone") {
			return []answer{{opError, "ENOENT\x00"}}
		}
		if kind == opRead {
			return []answer{{opRead, value}}
		}
		var names []string
		for node := range nodes {
			if rest, below := strings.CutPrefix(node, path+"/"); below && !strings.Contains(rest, "/") {
				names = append(names, rest+"\x00")
			}
		}
		return []answer{{opDirectory, strings.Join(append(names, "gone\x00"), "")}}
	})
	got := map[string]string{}
	if err := s.tree("/d/1", "vm-data", got); err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"vm-data": "", "vm-data/a": "x", "vm-data/dir": "", "vm-data/dir/b": "y"}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestStoreTellsOfWatches(t *testing.T) {
	tokens := make(chan string, 1)
	s := connect(t, func(token string) { tokens <- token }, func(kind, _ uint32, _ string) []answer {
		return []answer{{opWatchEvent, "/d/1/vm-data/a\x00guest.1\x00"}, {kind, "OK\x00"}}
	})
	if err := s.watch("/d/1/vm-data", "guest.1"); err != nil {
		t.Fatal(err)
	}
	select {
	case token := <-tokens:
		if token != "guest.1" {
			t.Errorf("token %q", token)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("no event")
	}
}

// A transaction that met another is done again; one that fails is abandoned.
func TestStoreReplaces(t *testing.T) {
	ends := 0
	var log []string
	s := connect(t, func(string) {}, func(kind, transaction uint32, body string) []answer {
		switch kind {
		case opBegin:
			return []answer{{kind, "9\x00"}}
		case opEnd:
			if ends++; ends == 1 {
				return []answer{{opError, "EAGAIN\x00"}}
			}
			log = append(log, "end "+body[:1])
		case opRemove:
			return []answer{{opError, "ENOENT\x00"}}
		case opWrite:
			if transaction != 9 {
				t.Errorf("a write outside of the transaction: %q", body)
			}
			log = append(log, strings.ReplaceAll(body, "\x00", "="))
			if strings.HasPrefix(body, "/bad") {
				return []answer{{opError, "EINVAL\x00"}}
			}
		}
		return []answer{{kind, "OK\x00"}}
	})
	if err := s.replace([]string{"/d"}, map[string]string{"/d/a": "1"}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(log, " "); got != "/d/a=1 /d/a=1 end T" {
		t.Error(got)
	}
	log = nil
	if err := s.replace(nil, map[string]string{"/bad": "1"}); err == nil || !strings.Contains(err.Error(), "EINVAL") {
		t.Errorf("error %v", err)
	}
	if got := strings.Join(log, " "); got != "/bad=1 end F" {
		t.Error(got)
	}
}

func TestStoreErrors(t *testing.T) {
	s := connect(t, func(string) {}, func(uint32, uint32, string) []answer { return []answer{{opError, "ENOENT\x00"}} })
	if _, err := s.read("/x"); !errors.Is(err, errAbsent) {
		t.Errorf("error %v", err)
	}
	if err := s.write("/x", strings.Repeat("v", maxPayload)); err == nil {
		t.Error("a request longer than the protocol's")
	}
	s.conn.Close()
	if _, err := s.read("/x"); err == nil {
		t.Error("a request on a closed connection")
	}
}
