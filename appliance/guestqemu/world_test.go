package guestqemu_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/appliance/guestqemu"
)

const within = 5 * time.Second

// world is QEMU's side: files for sysfs and devtmpfs, and the host's end of the port. It is a guesttest.Hand.
type world struct {
	t     *testing.T
	root  string
	guest *guestqemu.Guest
	port  *fakePort
	off   []string // causes of power-offs
}

const configurationFile = "sys/firmware/qemu_fw_cfg/by_name/opt/org.understudy/guest/raw"

// newWorld is a machine with everything, not yet opened.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, root: t.TempDir(), port: newFakePort()}
	w.write(configurationFile, "{}")
	w.write("sys/class/virtio-ports/vport1p1/name", "com.redhat.spice.0\n")
	w.write("sys/class/virtio-ports/vport1p2/name", guestqemu.PortName+"\n")
	w.write("dev/vport1p1", "")
	w.write("dev/vport1p2", "")
	if err := os.MkdirAll(filepath.Join(w.root, "sys/block"), 0o755); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) open(change func(*guestqemu.Options)) error {
	w.t.Helper()
	o := guestqemu.Options{
		Root: w.root, PortTimeout: 100 * time.Millisecond, Poll: 5 * time.Millisecond,
		PowerOff: func(cause string) error { w.off = append(w.off, cause); return nil },
	}
	if change != nil {
		change(&o)
	}
	var err error
	w.guest, err = guestqemu.OpenWith(w.t.Context(), o, func(path string) (guestqemu.Port, error) {
		if filepath.Base(path) != "vport1p2" {
			w.t.Errorf("port %s was opened", path)
		}
		return w.port, nil
	})
	if err != nil {
		return err
	}
	w.t.Cleanup(func() {
		if err := w.guest.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return nil
}

func start(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	if err := w.open(nil); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) write(path, value string) {
	w.t.Helper()
	path = filepath.Join(w.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(value), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) eventually(what string, condition func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(within); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not in time", what)
		}
	}
}

// say sends keys and values to the guest.
func (w *world) say(values map[string]string) {
	w.t.Helper()
	line, err := json.Marshal(map[string]any{"write": values})
	if err != nil {
		w.t.Fatal(err)
	}
	w.port.say(string(line) + "\n")
}

// WriteDomain implements guesttest.Hand; it returns when the guest has read the line.
func (w *world) WriteDomain(d appliance.Domain) {
	w.t.Helper()
	w.say(map[string]string{"vm": "/vm/" + d.VM, "unique-domain-id": d.UniqueID})
	w.eventually("domain arrives", func() bool {
		got, err := w.guest.Domain(w.t.Context())
		return err == nil && got == d
	})
}

// WriteInput implements guesttest.Hand; it returns when the guest has read the line.
func (w *world) WriteInput(input map[string]string) {
	w.t.Helper()
	values := map[string]string{}
	for name, value := range input {
		values[control.InputPrefix+name] = value
	}
	w.say(values)
	w.eventually("input arrives", func() bool {
		got, err := w.guest.Input(w.t.Context())
		return err == nil && len(got) >= len(input)
	})
}

// disk names the file of a disk; the letters are in another order than the numbers.
func disk(number int) string { return "vd" + string(rune('z'-number)) }

// Plug implements guesttest.Hand.
func (w *world) Plug(number int, readOnly bool) {
	w.t.Helper()
	ro := "0"
	if readOnly {
		ro = "1"
	}
	w.write("dev/"+disk(number), "")
	w.write("sys/block/"+disk(number)+"/serial", "vbd-"+strconv.Itoa(number)+"\n")
	w.write("sys/block/"+disk(number)+"/ro", ro+"\n")
	w.write("sys/block/"+disk(number)+"/size", "8\n")
}

// Unplug implements guesttest.Hand.
func (w *world) Unplug(number int) {
	w.t.Helper()
	for _, path := range []string{"sys/block/" + disk(number) + "/size", "sys/block/" + disk(number), "dev/" + disk(number)} {
		if err := os.RemoveAll(filepath.Join(w.root, path)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// published replays the guest's lines.
func (w *world) published() map[string]string {
	w.t.Helper()
	values := map[string]string{}
	for _, line := range w.port.lines() {
		var m struct {
			Write  map[string]string
			Remove []string
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			w.t.Fatalf("line %q: %v", line, err)
		}
		for key, value := range m.Write {
			values[key] = value
		}
		for _, key := range m.Remove {
			values[key] = "(removed)"
		}
	}
	return values
}

// ReadPublication implements guesttest.Hand.
func (w *world) ReadPublication(key string) (string, bool) {
	value, ok := w.published()[key]
	return value, ok
}

// RequestShutdown implements guesttest.Hand.
func (w *world) RequestShutdown(s appliance.Shutdown) {
	w.t.Helper()
	w.say(map[string]string{"control/shutdown": string(s)})
}

// Acknowledged implements guesttest.Hand.
func (w *world) Acknowledged() bool {
	value, _ := w.ReadPublication("control/shutdown")
	return value == "(removed)"
}

// fakePort behaves as Linux's virtio-serial ports do: without a host, reads end at once and writes wait.
type fakePort struct {
	mu        sync.Mutex
	changed   *sync.Cond
	connected bool
	closed    bool
	deadline  bool // has passed, for writing
	end       bool // was seen by a reader since the host went
	in        bytes.Buffer
	out       []string
}

func newFakePort() *fakePort {
	p := &fakePort{connected: true}
	p.changed = sync.NewCond(&p.mu)
	return p
}

func (p *fakePort) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.closed:
			return 0, os.ErrClosed
		case p.in.Len() > 0:
			return p.in.Read(b)
		case !p.connected:
			p.end = true
			return 0, io.EOF
		}
		p.changed.Wait()
	}
}

func (p *fakePort) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.connected || p.closed || p.deadline {
		if p.closed {
			return 0, os.ErrClosed
		}
		if p.deadline {
			return 0, os.ErrDeadlineExceeded
		}
		p.changed.Wait()
	}
	p.out = append(p.out, string(b))
	return len(b), nil
}

func (p *fakePort) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	p.changed.Broadcast()
}

func (p *fakePort) SetWriteDeadline(t time.Time) error {
	p.change(func() { p.deadline = !t.IsZero() })
	return nil
}

func (p *fakePort) Close() error {
	p.change(func() { p.closed = true })
	return nil
}

func (p *fakePort) connect(connected bool) {
	p.change(func() { p.connected, p.end = connected, false })
}
func (p *fakePort) say(text string) { p.change(func() { p.in.WriteString(text) }) }

func (p *fakePort) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end
}

func (p *fakePort) lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.out...)
}
