package guestqemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// port is an open virtio-serial port; *os.File is one. Reading ends with io.EOF while nobody is connected on the host's side, and may
// be tried again; writing waits meanwhile. A write of up to 32 KiB is taken whole or not at all (Linux, drivers/char/virtio_console.c).
type port interface {
	io.ReadWriteCloser
	SetWriteDeadline(time.Time) error
}

// openDevice opens a port for use with deadlines.
func openDevice(path string) (port, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := f.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(fmt.Errorf("%s cannot be waited for: %w", path, err), f.Close())
	}
	return f, nil
}

// Pauses between two looks: at the ports at boot, and at a port that nobody is connected to.
const (
	portPause    = 20 * time.Millisecond
	connectPause = 50 * time.Millisecond
)

// awaitPort returns the device node of our port. The kernel learns of its ports some time after the driver is there.
func awaitPort(ctx context.Context, root string) (string, error) {
	class := filepath.Join(root, "sys/class/virtio-ports")
	for {
		names, err := filepath.Glob(filepath.Join(class, "*", "name"))
		if err != nil {
			return "", err
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil || strings.TrimSpace(string(text)) != PortName {
				continue // it went, or is another
			}
			node := filepath.Join(root, "dev", filepath.Base(filepath.Dir(name)))
			if _, err := os.Stat(node); err == nil {
				return node, nil
			}
		}
		select {
		case <-time.After(portPause):
		case <-ctx.Done():
			return "", fmt.Errorf("%w; give QEMU -device virtio-serial and -device virtserialport,name=%s, and the guest the module virtio_console",
				context.Cause(ctx), PortName)
		}
	}
}

// receive applies what comes from the port until it is closed or fails.
func (g *Guest) receive() {
	defer close(g.received)
	buffer := make([]byte, 4096)
	var pending []byte // begin of a line
	for {
		n, err := g.port.Read(buffer)
		pending = append(pending, buffer[:n]...)
		for {
			line, rest, found := bytes.Cut(pending, []byte("\n"))
			if !found {
				break
			}
			pending = rest
			if err := g.apply(line); err != nil {
				g.state.fail(err)
				return
			}
		}
		if len(pending) >= maxLine {
			g.state.fail(fmt.Errorf("%w: a line has more than %d bytes", ErrProtocol, maxLine))
			return
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			pending = nil // whoever connects next begins with a whole line
			select {
			case <-time.After(connectPause):
			case <-g.closing:
				return
			}
		default:
			g.state.fail(fmt.Errorf("read from the port: %w", err))
			return
		}
	}
}

func (g *Guest) apply(line []byte) error {
	if len(line) >= maxLine {
		return fmt.Errorf("%w: a line has more than %d bytes", ErrProtocol, maxLine)
	}
	m, err := parseMessage(line)
	if err != nil {
		return err
	}
	return g.state.apply(m)
}

// send writes one message; when it returns nil, the port has taken it. It ends with ctx.
func (g *Guest) send(ctx context.Context, m message) error {
	line, err := m.line()
	if err != nil {
		return err
	}
	select {
	case g.turn <- struct{}{}:
		defer func() { <-g.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = g.port.SetWriteDeadline(time.Unix(1, 0)) // fails on a closed port alone, on which nobody writes
	})
	_, err = g.port.Write(line)
	if !stop() {
		<-ended
		err = errors.Join(err, g.port.SetWriteDeadline(time.Time{}))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("nobody reads port %s on the host's side: %w", PortName, context.Cause(ctx))
	}
	return err
}
