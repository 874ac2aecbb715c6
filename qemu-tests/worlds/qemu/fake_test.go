package qemu_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain becomes a fake QEMU when the world starts this program as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "-name" {
		os.Exit(fakeQEMU(os.Args[2]))
	}
	goleak.VerifyTestMain(m)
}

// fakeQEMU plays QEMU and its guest as far as the world sees them. The machine's name tells how. It writes its arguments to
// the guest's tree for the tests to look at.
func fakeQEMU(behaviour string) int {
	if behaviour == "dies" {
		fmt.Fprintln(os.Stderr, "no such accelerator")
		return 1
	}
	if behaviour == "silent" {
		time.Sleep(time.Hour)
	}
	f := &fake{behaviour: behaviour, qmp: inherited(3), port: inherited(4), nodes: map[string]bool{}, devices: map[string]bool{}}
	for _, a := range os.Args {
		if text, ok := strings.CutPrefix(a, "name=opt/org.understudy/guest,file="); ok {
			content, err := os.ReadFile(text)
			if err != nil {
				panic(err)
			}
			f.write("data/configuration", string(content))
		}
		if strings.HasPrefix(a, "{") {
			var d struct {
				Driver string `json:"driver"`
				ID     string `json:"id"`
				Node   string `json:"node-name"`
			}
			if err := json.Unmarshal([]byte(a), &d); err != nil {
				panic(err)
			}
			f.nodes[d.Node], f.devices[d.ID] = true, true
		}
	}
	for i := 0; i < len(os.Args); i += 60 { // within a value's length
		f.write(fmt.Sprintf("data/arguments/%d", i/60), strings.Join(os.Args[i:min(i+60, len(os.Args))], " "))
	}
	f.write("vm-data/understudy/out/identity", "me")
	f.say(`{"QMP": {"version": {}, "capabilities": []}}`)
	go f.listen()
	return f.serve()
}

type fake struct {
	behaviour      string
	qmp, port      net.Conn
	nodes, devices map[string]bool
	asked          int
	mu             sync.Mutex // of writes
}

func inherited(descriptor uintptr) net.Conn {
	c, err := net.FileConn(os.NewFile(descriptor, "inherited"))
	if err != nil {
		panic(err)
	}
	return c
}

func (f *fake) say(format string, values ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _ = fmt.Fprintf(f.qmp, format+"\r\n", values...)
}

func (f *fake) write(key, value string) {
	line, err := json.Marshal(map[string]map[string]string{"write": {key: value}})
	if err != nil {
		panic(err)
	}
	f.line(string(line))
}

func (f *fake) line(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _ = fmt.Fprintln(f.port, line)
}

// listen is the guest: it shows what it is told in data/told, and powers off.
func (f *fake) listen() {
	told := 0
	for lines := bufio.NewScanner(f.port); lines.Scan(); {
		if strings.Contains(lines.Text(), "control/shutdown") {
			if f.behaviour == "deaf" {
				continue
			}
			f.line(`{"remove":["control/shutdown"]}`)
			f.write("vm-data/understudy/out/cause", "shutdown requested")
			os.Exit(0)
		}
		var heard struct{ Write map[string]string }
		if err := json.Unmarshal(lines.Bytes(), &heard); err != nil {
			panic(err)
		}
		said := false
		for key, value := range heard.Write {
			if strings.HasPrefix(key, "vm-data/say") { // the guest says what it is told to
				f.line(strings.ReplaceAll(value, "LONG", strings.Repeat("x", 16<<10)))
				said = true
			}
		}
		if said {
			continue
		}
		f.write(fmt.Sprintf("data/told/%d", told), lines.Text())
		told++
	}
}

// serve answers commands until the connection ends.
func (f *fake) serve() int {
	for lines := bufio.NewScanner(f.qmp); lines.Scan(); {
		var r struct {
			Execute   string
			ID        int
			Arguments struct {
				ID       string `json:"id"`
				Node     string `json:"node-name"`
				Drive    string `json:"drive"`
				ReadOnly bool   `json:"read-only"`
			}
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			panic(err)
		}
		refuse := func(class, format string, values ...any) {
			f.say(`{"error": {"class": %q, "desc": %q}, "id": %d}`, class, fmt.Sprintf(format, values...), r.ID)
		}
		switch a := r.Arguments; r.Execute {
		case "blockdev-add":
			f.nodes[a.Node] = true
		case "device_add":
			if f.behaviour == "full" {
				refuse("GenericError", "PCI: no slot available")
				continue
			}
			f.devices[a.ID] = true
			f.write("data/added", lines.Text())
		case "device_del":
			if !f.devices[a.ID] {
				refuse("DeviceNotFound", "Device '%s' not found", a.ID)
				continue
			}
			if f.asked++; f.behaviour == "late" && f.asked == 2 {
				refuse("GenericError", "Device %s is already in the process of unplug", a.ID)
				continue
			}
			f.say(`{"return": {}, "id": %d}`, r.ID)
			f.detach(a.ID)
			continue
		case "blockdev-del":
			if f.asked++; f.asked%2 == 0 && f.nodes[a.Node] {
				refuse("GenericError", "Node %s is in use", a.Node)
				continue
			}
			if !f.nodes[a.Node] {
				refuse("GenericError", "Failed to find node with node-name='%s'", a.Node)
				continue
			}
			delete(f.nodes, a.Node)
		case "stop", "cont":
			f.write("data/last", r.Execute)
		}
		f.say(`{"return": {}, "id": %d}`, r.ID)
	}
	return 0
}

// detach is what a guest makes of a request to give a device up.
func (f *fake) detach(id string) {
	switch f.behaviour {
	case "refuses":
		f.say(`{"event": "DEVICE_UNPLUG_GUEST_ERROR", "data": {"device": %q, "path": "/machine"}}`, id)
		return
	case "holds":
		return
	case "late":
		if f.asked < 3 {
			return
		}
	}
	f.say(`{"event": "DEVICE_DELETED", "data": {"device": "another", "path": "/machine"}}`)
	f.say(`{"event": "DEVICE_DELETED", "data": {"path": "/machine/peripheral/%s/virtio-backend"}}`, id)
	delete(f.devices, id)
	f.say(`{"event": "DEVICE_DELETED", "data": {"device": %q, "path": "/machine"}}`, id)
}

// value of an option in the arguments that a fake was started with.
func option(arguments []string, name string) (values []string) {
	for i, a := range arguments[:max(len(arguments)-1, 0)] {
		if a == name {
			values = append(values, arguments[i+1])
		}
	}
	slices.Sort(values)
	return values
}
