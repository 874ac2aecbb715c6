package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"strconv"
	"strings"
	"sync"
)

// xenstoreSocket is where xenstored listens in dom0.
const xenstoreSocket = "/run/xenstored/socket"

// The kinds of messages of XenStore's protocol (xen/include/public/io/xs_wire.h) that are used here.
const (
	opDirectory  = 1
	opRead       = 2
	opWatch      = 4
	opUnwatch    = 5
	opBegin      = 6
	opEnd        = 7
	opWrite      = 11
	opMkdir      = 12
	opRemove     = 13
	opSetPerms   = 14
	opWatchEvent = 15
	opError      = 16
)

// maxPayload is the protocol's limit of a message's body in bytes.
const maxPayload = 4096

// errAgain is XenStore's answer when a transaction must be done again, errAbsent when there is no such node.
var (
	errAgain  = errors.New("EAGAIN")
	errAbsent = errors.New("ENOENT")
)

// store is a connection to xenstored with dom0's rights; it is kept apart from the delegate's own client, which it helps to
// test. Its methods may be called concurrently; requests are made one after another. A transaction holds the connection.
type store struct {
	conn    net.Conn
	changed func(token string) // called by the reader for each watch that fires; must not call the store

	turn    sync.Mutex
	replies chan message
}

type message struct {
	kind uint32
	body string
}

// openStore connects to xenstored.
func openStore(changed func(token string)) (*store, error) {
	conn, err := net.Dial("unix", xenstoreSocket)
	if err != nil {
		return nil, err
	}
	return newStore(conn, changed), nil
}

func newStore(conn net.Conn, changed func(token string)) *store {
	s := &store{conn: conn, changed: changed, replies: make(chan message)}
	go s.receive()
	return s
}

// receive ends with the connection, and that with the machine or, in a hotplug script, the process.
func (s *store) receive() {
	defer close(s.replies)
	for {
		var header [16]byte
		if _, err := io.ReadFull(s.conn, header[:]); err != nil {
			return
		}
		kind, size := binary.LittleEndian.Uint32(header[:]), binary.LittleEndian.Uint32(header[12:])
		if size > maxPayload {
			return
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(s.conn, body); err != nil {
			return
		}
		if kind != opWatchEvent {
			s.replies <- message{kind, string(body)}
			continue
		}
		if _, token, ok := strings.Cut(strings.TrimRight(string(body), "\x00"), "\x00"); ok {
			s.changed(token)
		}
	}
}

// ask sends a request and returns the answer. The caller holds turn.
func (s *store) ask(kind, transaction uint32, body string) (string, error) {
	if len(body) > maxPayload {
		return "", fmt.Errorf("xenstore: a request of %d bytes, more than %d", len(body), maxPayload)
	}
	request := binary.LittleEndian.AppendUint32(nil, kind)
	request = binary.LittleEndian.AppendUint32(request, 0)
	request = binary.LittleEndian.AppendUint32(request, transaction)
	request = binary.LittleEndian.AppendUint32(request, uint32(len(body)))
	if _, err := s.conn.Write(append(request, body...)); err != nil {
		return "", err
	}
	reply, ok := <-s.replies
	if !ok {
		return "", errors.New("xenstored has closed the connection")
	}
	if reply.kind == opError {
		subject, _, _ := strings.Cut(body, "\x00")
		switch text := strings.TrimRight(reply.body, "\x00"); text {
		case "EAGAIN":
			return "", errAgain
		case "ENOENT":
			return "", fmt.Errorf("xenstore %s: %w", subject, errAbsent)
		default:
			return "", fmt.Errorf("xenstore %s: %s", subject, text)
		}
	}
	return reply.body, nil
}

func (s *store) one(kind uint32, body string) (string, error) {
	s.turn.Lock()
	defer s.turn.Unlock()
	return s.ask(kind, 0, body)
}

func (s *store) write(key, value string) error {
	_, err := s.one(opWrite, key+"\x00"+value)
	return err
}

func (s *store) read(key string) (string, error) { return s.one(opRead, key+"\x00") }

func (s *store) watch(key, token string) error {
	_, err := s.one(opWatch, key+"\x00"+token+"\x00")
	return err
}

func (s *store) unwatch(key, token string) error {
	_, err := s.one(opUnwatch, key+"\x00"+token+"\x00")
	return err
}

// makeOwned makes a directory that belongs to a domain and that no other may read.
func (s *store) makeOwned(key string, domain int) error {
	if _, err := s.one(opMkdir, key+"\x00"); err != nil {
		return err
	}
	_, err := s.one(opSetPerms, key+"\x00n"+strconv.Itoa(domain)+"\x00")
	return err
}

// replace removes the trees named first and writes nodes, all of it at once.
func (s *store) replace(remove []string, write map[string]string) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	for {
		err := s.tryReplace(remove, write)
		if !errors.Is(err, errAgain) {
			return err
		}
	}
}

func (s *store) tryReplace(remove []string, write map[string]string) error {
	reply, err := s.ask(opBegin, 0, "\x00")
	if err != nil {
		return err
	}
	id, err := strconv.ParseUint(strings.TrimRight(reply, "\x00"), 10, 32)
	if err != nil {
		return fmt.Errorf("xenstore: transaction %q: %w", reply, err)
	}
	transaction := uint32(id)
	err = func() error {
		for _, key := range remove {
			if _, err := s.ask(opRemove, transaction, key+"\x00"); err != nil && !errors.Is(err, errAbsent) {
				return err
			}
		}
		for key, value := range write {
			if _, err := s.ask(opWrite, transaction, key+"\x00"+value); err != nil {
				return err
			}
		}
		return nil
	}()
	if err != nil {
		_, abort := s.ask(opEnd, transaction, "F\x00")
		return errors.Join(err, abort)
	}
	_, err = s.ask(opEnd, transaction, "T\x00")
	return err
}

// tree adds to out all nodes at and below base/key, by their paths relative to base. What vanishes meanwhile is left out.
func (s *store) tree(base, key string, out map[string]string) error {
	value, err := s.read(path.Join(base, key))
	if errors.Is(err, errAbsent) {
		return nil
	} else if err != nil {
		return err
	}
	out[key] = value
	names, err := s.one(opDirectory, path.Join(base, key)+"\x00")
	if errors.Is(err, errAbsent) {
		return nil
	} else if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimRight(names, "\x00"), "\x00") {
		if name == "" {
			continue
		}
		if err := s.tree(base, path.Join(key, name), out); err != nil {
			return err
		}
	}
	return nil
}
