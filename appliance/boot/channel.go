package boot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// word says what a message between PID 1 and its worker is about.
type word string

const (
	wordBeat word = "beat" // from the worker: my main loop goes round
	wordOff  word = "off"  // from the worker, its last: power off, with this cause, which needs no further publication
	wordEnd  word = "end"  // from PID 1: end, with this cause
	wordTrim word = "trim" // from PID 1: give back the memory that you do not use
)

const (
	// maxMessage bounds a message in bytes; a longer text is cut.
	maxMessage = 4 << 10
	// sendTimeout is how long the other side may leave no room for a message. Some fifty fit, and both sides read all the time.
	sendTimeout = time.Second
)

// channel is one end of what PID 1 and its worker tell each other by: "word text", one message a packet of a pair of SOCK_SEQPACKET
// sockets, so that none is ever seen in part.
type channel struct{ file *os.File }

// newChannel takes an end that does not block, see openChannel.
func newChannel(descriptor int) channel { return channel{os.NewFile(uintptr(descriptor), "channel")} }

// openChannel returns both ends as descriptors that do not block and are not inherited.
func openChannel() (ours, theirs int, err error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	return ends[0], ends[1], os.NewSyscallError("socketpair", err)
}

func (c channel) send(w word, text string) error {
	message := string(w) + " " + text
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "")
	}
	err := c.file.SetWriteDeadline(time.Now().Add(sendTimeout))
	if err == nil {
		_, err = c.file.WriteString(message)
	}
	if err != nil {
		return fmt.Errorf("boot: send %q: %w", w, err)
	}
	return nil
}

// receive has every message handled until the other side is gone, which is nil, or handle does not want more.
func (c channel) receive(handle func(w word, text string) (more bool)) error {
	buffer := make([]byte, maxMessage)
	for {
		n, err := c.file.Read(buffer)
		if errors.Is(err, unix.ECONNRESET) {
			continue // the other side left a message of ours unread; what it sent before comes next
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("boot: receive: %w", err)
		}
		w, text, _ := strings.Cut(string(buffer[:n]), " ")
		if !handle(word(w), text) {
			return nil
		}
	}
}
