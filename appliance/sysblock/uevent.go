package sysblock

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// uevents is a socket on which the kernel tells what happens to its devices. The nil *uevents never tells anything.
type uevents struct {
	socket *os.File
	signal chan struct{} // holds one element when something happened to a disk
	ended  chan struct{}
}

// kernelGroup is the multicast group of the kernel's own messages; udev uses others.
const kernelGroup = 1

func listen() (*uevents, error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open a uevent socket: %w", err)
	}
	if err := unix.Bind(socket, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		return nil, fmt.Errorf("bind the uevent socket: %w", errors.Join(err, unix.Close(socket)))
	}
	u := &uevents{socket: os.NewFile(uintptr(socket), "uevents"), signal: make(chan struct{}, 1), ended: make(chan struct{})}
	go u.run()
	return u, nil
}

// run ends when the socket is closed.
func (u *uevents) run() {
	defer close(u.ended)
	buffer := make([]byte, 8<<10) // the kernel's messages have at most 2 KiB (UEVENT_BUFFER_SIZE) and a header
	for {
		n, err := u.socket.Read(buffer)
		if errors.Is(err, unix.ENOBUFS) {
			u.tell() // messages were lost
			continue
		}
		if err != nil {
			return
		}
		if concernsDisk(buffer[:n]) {
			u.tell()
		}
	}
}

// concernsDisk tells whether a message, NUL-terminated words of which the first is "ACTION@path", is about a block device.
func concernsDisk(message []byte) bool {
	return bytes.Contains(message, []byte("\x00SUBSYSTEM=block\x00"))
}

func (u *uevents) tell() {
	select {
	case u.signal <- struct{}{}:
	default: // it is told already
	}
}

func (u *uevents) blocks() <-chan struct{} {
	if u == nil {
		return nil
	}
	return u.signal
}

func (u *uevents) close() {
	if u != nil {
		_ = u.socket.Close() // nothing is written
		<-u.ended
	}
}
