package lan

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
)

const (
	// maxFrame bounds an Ethernet frame in bytes: the largest IP packet and its header.
	maxFrame  = 64<<10 + 18
	minFrame  = 14   // bytes of an Ethernet header
	queueSize = 4096 // frames waiting for a machine; some MiB, as much as a TCP window
)

type address [6]byte

// frame is an Ethernet frame with QEMU's prefix, its length in 4 bytes, big endian.
type frame []byte

func (f frame) destination() address { return address(f[4:]) }
func (f frame) source() address      { return address(f[10:]) }

// group tells whether an address is one of many machines.
func (a address) group() bool { return a[0]&1 == 1 }

var broadcast = address{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// fabric is a learning switch.
type fabric struct {
	gateway address
	work    sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	ports   map[*port]struct{}
	learned map[address]*port
	largest map[address]int   // packet of each machine in bytes, as in LAN.LargestPacket
	sent    map[address]int64 // bytes of each machine, as in LAN.Sent
}

// port is a place of the switch. Its owner's end of connection speaks QEMU's stream of frames.
type port struct {
	connection net.Conn
	gateway    bool // takes only what is for it: it sends other frames back
	queue      chan frame
	gone       chan struct{}
}

func newFabric(gateway address) *fabric {
	return &fabric{gateway: gateway, ports: map[*port]struct{}{}, learned: map[address]*port{}, largest: map[address]int{}, sent: map[address]int64{}}
}

// attach takes a connection over and switches its frames until it ends.
func (s *fabric) attach(connection net.Conn, gateway bool) {
	p := &port{connection: connection, gateway: gateway, queue: make(chan frame, queueSize), gone: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = connection.Close() // nobody waits for it
		return
	}
	s.ports[p] = struct{}{}
	s.work.Go(func() { s.receive(p) })
	s.work.Go(p.send)
}

// close ends all ports and waits.
func (s *fabric) close() {
	s.mu.Lock()
	s.closed = true
	for p := range s.ports {
		_ = p.connection.Close() // its receiver does the rest
	}
	s.mu.Unlock()
	s.work.Wait()
}

// receive switches what a port sends, until its connection ends or sends what is no frame.
func (s *fabric) receive(p *port) {
	reader := bufio.NewReaderSize(p.connection, maxFrame)
	for {
		f, err := readFrame(reader)
		if err != nil {
			break // a machine that has ended, or one that is no QEMU: it is cut off either way
		}
		s.forward(p, f)
	}
	close(p.gone)
	_ = p.connection.Close() // the sender may be in the middle of a write
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ports, p)
	for a, at := range s.learned {
		if at == p {
			delete(s.learned, a)
		}
	}
}

func readFrame(r io.Reader) (frame, error) {
	var prefix [4]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(prefix[:])
	if length < minFrame || length > maxFrame {
		return nil, fmt.Errorf("a frame of %d bytes, not %d to %d", length, minFrame, maxFrame)
	}
	f := make(frame, 4+length)
	copy(f, prefix[:])
	_, err := io.ReadFull(r, f[4:])
	return f, err
}

func (s *fabric) forward(from *port, f frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if source := f.source(); !source.group() {
		s.learned[source] = from
		s.largest[source] = max(s.largest[source], len(f)-4-minFrame)
		s.sent[source] += int64(len(f) - 4)
	}
	destination := f.destination()
	if to := s.learned[destination]; to != nil {
		if to != from {
			to.offer(f)
		}
		return
	}
	for to := range s.ports {
		if to != from && (!to.gateway || destination == s.gateway || destination == broadcast) {
			to.offer(f)
		}
	}
}

// offer queues a frame, or drops it.
func (p *port) offer(f frame) {
	select {
	case p.queue <- f:
	default:
	}
}

// send writes what is queued until the port has gone.
func (p *port) send() {
	for {
		select {
		case f := <-p.queue:
			if _, err := p.connection.Write(f); err != nil {
				_ = p.connection.Close() // tells the receiver
				return
			}
		case <-p.gone:
			return
		}
	}
}
