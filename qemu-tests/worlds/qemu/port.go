package qemu

import (
	"bufio"
	"bytes"
	"errors"
	"log"
	"net"
	"os"
	"sync"
)

// port is the pool's end of the virtio-serial port: one goroutine reads what the guest writes, one tells it what is new. A guest
// that reads nothing holds up the second alone.
type port struct {
	connection net.Conn
	tree       *tree
	file       *os.File
	log        *log.Logger // of both directions; log.Logger has a lock
	stop       chan struct{}
	reader     sync.WaitGroup
	writer     sync.WaitGroup
}

func newPort(connection net.Conn, path string, t *tree) (*port, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	p := &port{
		connection: connection, tree: t, file: file, log: log.New(file, "", log.Ltime|log.Lmicroseconds), stop: make(chan struct{}),
	}
	p.reader.Go(p.read)
	p.writer.Go(p.write)
	return p, nil
}

// read mirrors what the guest writes. A line that is not of the protocol, or breaks a limit, stands in the log and changes nothing.
func (p *port) read() {
	reader := bufio.NewReaderSize(p.connection, maxLine)
	for {
		line, err := reader.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			p.log.Printf("guest: refused: a line of more than %d bytes", maxLine)
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = reader.ReadSlice('\n')
			}
			if err == nil {
				continue
			}
		}
		if err != nil {
			return // QEMU has ended, or close was called
		}
		m, err := decodeLine(line)
		if err == nil {
			err = p.tree.apply(m)
		}
		if err != nil {
			p.log.Printf("guest: refused: %v: %.200q", err, line)
			continue
		}
		p.log.Printf("guest: %s", bytes.TrimSpace(line))
	}
}

// write tells the guest what is new, until stop.
func (p *port) write() {
	for {
		select {
		case <-p.tree.news:
		case <-p.stop:
			return
		}
		for _, line := range p.tree.untold() {
			p.log.Printf("pool: %s", bytes.TrimSpace(line))
			if _, err := p.connection.Write(line); err != nil {
				return // QEMU has ended, or close was called
			}
		}
	}
}

// drain reads what a QEMU that has ended has left, and ends.
func (p *port) drain() {
	p.reader.Wait()
	p.close()
}

// close ends both goroutines.
func (p *port) close() {
	close(p.stop)
	_ = p.connection.Close() // only what is lost now is unread
	p.reader.Wait()
	p.writer.Wait()
	_ = p.file.Close() // a log for people
}
