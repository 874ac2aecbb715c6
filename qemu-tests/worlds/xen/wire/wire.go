package wire

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// PortName is the name of the virtio-serial port.
const PortName = "org.understudy.dom0"

// MaxLine is the length of the longest message in bytes.
const MaxLine = 1 << 20

// Call names what is asked for.
type Call string

// The calls. Those from CallPlug to CallDestroy are about Request.Domain.
const (
	CallHello    Call = "hello"    // answered when dom0 is up
	CallCreate   Call = "create"   // builds Request.Create and lets it run
	CallForget   Call = "forget"   // takes the SCSI disk with the serial number of Request.Disk out of dom0
	CallPlug     Call = "plug"     // attaches Request.Disk
	CallUnplug   Call = "unplug"   // detaches Request.Disk
	CallData     Call = "data"     // replaces vm-data by Request.Data
	CallPause    Call = "pause"    // stops the domain's processors
	CallUnpause  Call = "unpause"  // lets them go on
	CallShutdown Call = "shutdown" // writes control/shutdown; answered when the guest has acknowledged it
	CallDestroy  Call = "destroy"  // ends the domain at once; answered when it is gone
	CallCancel   Call = "cancel"   // ends the call with Request.ID, which is answered with an error; itself it is not answered
)

// Request is a message to the agent.
type Request struct {
	ID     uint64            `json:"id"`
	Call   Call              `json:"call"`
	Domain string            `json:"domain,omitempty"` // its name
	Create *Domain           `json:"create,omitempty"`
	Disk   *Disk             `json:"disk,omitempty"`
	Data   map[string]string `json:"data,omitempty"`
}

// Mode is how a guest is virtualised.
type Mode string

// The modes.
const (
	PV  Mode = "pv"
	PVH Mode = "pvh"
	HVM Mode = "hvm" // boots from its first disk
)

// Domain is what a guest is built from. The kernel of a PV or PVH guest stands on the first disk (package agent says where).
type Domain struct {
	Name   string            `json:"name"`
	UUID   string            `json:"uuid"`
	Mode   Mode              `json:"mode"`
	Memory int64             `json:"memory"`         // MiB
	MACs   []string          `json:"macs,omitempty"` // one a network interface
	Disks  []Disk            `json:"disks"`
	Store  map[string]string `json:"store,omitempty"` // written below /local/domain/ID before the guest runs
}

// Disk is a SCSI disk of dom0 as a guest sees it.
type Disk struct {
	Serial   string `json:"serial"`           // its SCSI serial number
	Device   string `json:"device,omitempty"` // where the guest has it, in xl's words: "xvdb", "d17p0"
	ReadOnly bool   `json:"read_only,omitempty"`
}

// Message is what the agent writes: one of both.
type Message struct {
	Reply *Reply `json:"reply,omitempty"`
	Event *Event `json:"event,omitempty"`
}

// Reply answers the request with the same id.
type Reply struct {
	ID       uint64 `json:"id"`
	Error    string `json:"error,omitempty"`
	Rejected bool   `json:"rejected,omitempty"` // the guest refused to let a disk go
}

// EventName names an event.
type EventName string

// The events.
const (
	EventTree    EventName = "tree"    // Event.Tree is what the guest's directories hold now
	EventConsole EventName = "console" // Event.Console is what it wrote
	EventEnded   EventName = "ended"   // the domain is gone; nothing comes after
)

// Event tells what a guest did.
type Event struct {
	Name    EventName         `json:"name"`
	Domain  string            `json:"domain"`
	Tree    map[string]string `json:"tree,omitempty"`
	Console []byte            `json:"console,omitempty"`
	Reason  string            `json:"reason,omitempty"` // why it ended: "poweroff or reboot", "crash", "destroyed"
}

// Write writes one message as one line in one call of w. Calls for one w must not overlap.
func Write(w io.Writer, message any) error {
	line, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(line) >= MaxLine {
		return fmt.Errorf("wire: a message of %d bytes, more than %d", len(line), MaxLine)
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// Reader reads messages.
type Reader struct{ lines *bufio.Scanner }

// NewReader reads from r.
func NewReader(r io.Reader) *Reader {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), MaxLine)
	return &Reader{lines}
}

// Read reads the next message into one of the types above; io.EOF is the end.
func (r *Reader) Read(message any) error {
	if !r.lines.Scan() {
		if err := r.lines.Err(); errors.Is(err, bufio.ErrTooLong) {
			return fmt.Errorf("wire: a message of more than %d bytes", MaxLine)
		} else if err != nil {
			return err
		}
		return io.EOF
	}
	if err := json.Unmarshal(r.lines.Bytes(), message); err != nil {
		return fmt.Errorf("wire: %.80q: %w", r.lines.Bytes(), err)
	}
	return nil
}
