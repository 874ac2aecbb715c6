package xen

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/qmp"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen/wire"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// fakeQEMU answers QMP, keeps the names of block nodes and devices, and logs commands.
type fakeQEMU struct {
	mu   sync.Mutex
	log  []string
	has  map[string]bool
	fail string // the command that is refused
}

func (f *fakeQEMU) serve(conn net.Conn) {
	_, _ = fmt.Fprintln(conn, `{"QMP":{"version":{},"capabilities":[]}}`)
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var c struct {
			Execute   string
			ID        json.RawMessage
			Arguments map[string]any
		}
		_ = json.Unmarshal(lines.Bytes(), &c) // the client's tests are elsewhere
		name, _ := c.Arguments["id"].(string)
		if name == "" {
			name, _ = c.Arguments["node-name"].(string)
		}
		f.mu.Lock()
		f.log = append(f.log, strings.TrimSpace(c.Execute+" "+name))
		refused := c.Execute == f.fail
		if !refused && name != "" {
			f.has[name] = strings.HasSuffix(c.Execute, "add")
		}
		f.mu.Unlock()
		id := ""
		if len(c.ID) > 0 {
			id = `,"id":` + string(c.ID)
		}
		if refused {
			_, _ = fmt.Fprintln(conn, `{"error":{"class":"GenericError","desc":"refused"}`+id+`}`)
			continue
		}
		_, _ = fmt.Fprintln(conn, `{"return":{}`+id+`}`)
		if c.Execute == "device_del" {
			// A second device's event, and one without a name, as QEMU sends them.
			for _, data := range []string{`{"path":"/x"}`, `{"device":"dev-other","path":"/x"}`, `{"device":"` + name + `","path":"/x"}`} {
				_, _ = fmt.Fprintln(conn, `{"event":"DEVICE_DELETED","data":`+data+`,"timestamp":{"seconds":1,"microseconds":0}}`)
			}
		}
	}
}

func (f *fakeQEMU) left() (names []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, there := range f.has {
		if there {
			names = append(names, name)
		}
	}
	return names
}

// fakeHost is a host without a hypervisor. Domains end when they are destroyed, or by die.
func fakeHost(t *testing.T) (h *Host, q *fakeQEMU, die chan<- string) {
	t.Helper()
	q = &fakeQEMU{has: map[string]bool{}}
	ours, theirs := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		q.serve(theirs)
	}()
	client, err := qmp.New(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		<-ended
	})
	h = &Host{dir: t.TempDir(), qmp: client, disks: newDisks(client), guests: map[string]*guest{}}
	dying := make(chan string, 1)
	end := func(say func(wire.Message), name string) {
		say(wire.Message{Event: &wire.Event{Name: wire.EventConsole, Domain: name, Console: []byte("bye\n")}})
		say(wire.Message{Event: &wire.Event{Name: wire.EventEnded, Domain: name, Reason: "crash"}})
	}
	gone := false
	h.agent = fakeAgent(t, h.dispatch, func(say func(wire.Message), r wire.Request) {
		reply := &wire.Reply{ID: r.ID}
		select {
		case name := <-dying:
			gone = true
			end(say, name)
		default:
		}
		switch r.Call {
		case wire.CallCreate:
			if r.Create.Memory == 0 {
				reply.Error = "no memory"
				break
			}
			say(wire.Message{Event: &wire.Event{Name: wire.EventTree, Domain: r.Create.Name, Tree: r.Create.Store}})
		case wire.CallPlug, wire.CallUnplug:
			if gone {
				reply.Error = "there is no domain"
			} else if r.Disk.Device == "d9p0" {
				reply.Error, reply.Rejected = "no", r.Call == wire.CallUnplug
			}
		case wire.CallDestroy:
			end(say, r.Domain)
		}
		say(wire.Message{Reply: reply})
	})
	t.Cleanup(h.work.Wait)
	return h, q, dying
}

func machineWith(t *testing.T, disks ...string) xapisim.Machine {
	t.Helper()
	m := xapisim.Machine{
		UUID: "u", Name: "g", DomainID: 3, UniqueDomainID: "boot-1", Memory: 256 << 20, VCPUs: 1,
		Data: map[string]string{"vm-data/a": "b"}, VIFs: []xapisim.VIF{{Device: "0", MAC: "00:16:3e:00:00:01", MTU: 1500}},
	}
	for _, userDevice := range disks {
		m.Disks = append(m.Disks, disk(t, userDevice))
	}
	return m
}

func disk(t *testing.T, userDevice string) xapisim.Disk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	return xapisim.Disk{UserDevice: userDevice, Path: path}
}

func await(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the guest has not ended")
	}
}

func TestLifeOfAGuest(t *testing.T) {
	h, q, _ := fakeHost(t)
	g, err := h.World(PV).Start(t.Context(), machineWith(t, "0"))
	if err != nil {
		t.Fatal(err)
	}
	<-g.Changed()
	if tree, err := g.Tree(); err != nil || tree["vm-data/a"] != "b" || tree["unique-domain-id"] != "boot-1" {
		t.Errorf("tree %v, %v", tree, err)
	}
	d := disk(t, "4")
	if err := g.Plug(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := g.Plug(t.Context(), d); err == nil {
		t.Error("a device was plugged twice")
	}
	if n := len(q.left()); n != 4 { // two disks, a node and a device each
		t.Errorf("the host has %v", q.left())
	}
	if err := g.Unplug(t.Context(), "4"); err != nil {
		t.Fatal(err)
	}
	if err := g.Unplug(t.Context(), "4"); err == nil {
		t.Error("a device was unplugged twice")
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, g.Done())
	if left := q.left(); len(left) > 0 {
		t.Errorf("a guest that is gone holds %v", left)
	}
	if err := g.Kill(); err != nil {
		t.Errorf("killed twice: %v", err)
	}
	console, err := os.ReadFile(filepath.Join(h.dir, "u.3", "console.log"))
	if err != nil || !strings.Contains(string(console), "bye") || !strings.Contains(string(console), "crash") {
		t.Errorf("console %q, %v", console, err)
	}
}

func TestFailuresLeaveNoDisk(t *testing.T) {
	h, q, _ := fakeHost(t)
	bad := machineWith(t, "0")
	bad.Memory = 0
	if _, err := h.World(PV).Start(t.Context(), bad); err == nil {
		t.Error("a guest without memory")
	}
	bad = machineWith(t, "0", "1")
	bad.Disks[1].Path += ".absent"
	if _, err := h.World(PV).Start(t.Context(), bad); err == nil {
		t.Error("a guest with a disk that is not there")
	}
	bad = machineWith(t, "0")
	bad.VIFs[0].MTU = 9000
	if _, err := h.World(PV).Start(t.Context(), bad); err == nil {
		t.Error("a guest with an MTU that this world has not")
	}
	g, err := h.World(PV).Start(t.Context(), machineWith(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Plug(t.Context(), disk(t, "9")); err == nil {
		t.Error("a plug that xl refuses")
	}
	q.mu.Lock()
	q.fail = "device_add"
	q.mu.Unlock()
	if err := g.Plug(t.Context(), disk(t, "5")); err == nil {
		t.Error("a plug that QEMU refuses")
	}
	if left := q.left(); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}

func TestPlugIntoADyingGuest(t *testing.T) {
	h, q, die := fakeHost(t)
	g, err := h.World(PV).Start(t.Context(), machineWith(t, "0"))
	if err != nil {
		t.Fatal(err)
	}
	die <- "u.3"
	if err := g.Plug(t.Context(), disk(t, "4")); err == nil {
		t.Error("a disk was plugged into a guest that has gone")
	}
	await(t, g.Done())
	if err := g.Unplug(t.Context(), "0"); err != nil {
		t.Errorf("a guest that is gone still holds its disk: %v", err)
	}
	if left := q.left(); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}

func TestHostLost(t *testing.T) {
	h, _, _ := fakeHost(t)
	g, err := h.World(PV).Start(t.Context(), machineWith(t, "0"))
	if err != nil {
		t.Fatal(err)
	}
	h.lost()
	await(t, g.Done())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := g.Shutdown(ctx); err != nil {
		t.Errorf("shutdown of a guest that is gone: %v", err)
	}
}
