package guestxen_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/appliance/guesttest"
	"github.com/understudy-dr/understudy/appliance/guestxen"
	"github.com/understudy-dr/understudy/appliance/xenstore"
	"github.com/understudy-dr/understudy/appliance/xenstore/xenstoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is dom0's side: XenStore, and the files in which the guest's kernel shows its disks.
type host struct {
	*xenstoretest.Store
	t    *testing.T
	root string

	mu     sync.Mutex
	causes []string // that the machine was powered off with
}

func start(t *testing.T) (*guestxen.Guest, *host) {
	t.Helper()
	h := &host{Store: xenstoretest.New(t), t: t, root: t.TempDir()}
	for _, dir := range []string{"sys/block", "dev"} {
		h.check(os.MkdirAll(filepath.Join(h.root, dir), 0o755))
	}
	g, err := guestxen.Open(t.Context(), guestxen.Options{
		Root: h.root, Connection: h.Connect(), PowerOff: h.powerOff, Poll: 20 * time.Millisecond, AnswerTimeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g, h
}

// receive returns what comes within a time that is ample.
func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came in time")
		panic("not reached")
	}
}

func (h *host) check(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) powerOff(cause string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.causes = append(h.causes, cause)
	return nil
}

func (h *host) WriteDomain(d appliance.Domain) {
	h.Write("vm", "/vm/"+d.VM)
	h.Write("unique-domain-id", d.UniqueID)
}

func (h *host) WriteInput(input map[string]string) {
	for name, value := range input {
		h.Write(control.InputPrefix+name, value)
	}
}

func (h *host) disk(number int) (dir, node string) {
	name := fmt.Sprintf("xvd%c", 'a'+number)
	return filepath.Join(h.root, "sys/block", name), filepath.Join(h.root, "dev", name)
}

func (h *host) Plug(number int, readOnly bool) {
	h.t.Helper()
	dir, node := h.disk(number)
	ids := idsOf(number)
	ro := "0"
	if readOnly {
		ro = "1"
	}
	temporary := filepath.Join(h.root, "new")
	h.check(os.MkdirAll(filepath.Join(temporary, "device"), 0o755))
	for name, content := range map[string]string{"size": "8", "ro": ro, "device/nodename": fmt.Sprintf("device/vbd/%d", ids[len(ids)-1])} {
		h.check(os.WriteFile(filepath.Join(temporary, name), []byte(content+"\n"), 0o644))
	}
	h.check(os.WriteFile(node, make([]byte, 4096), 0o644))
	h.check(os.Rename(temporary, dir)) // in one step
}

func (h *host) Unplug(number int) {
	h.t.Helper()
	dir, node := h.disk(number)
	h.check(os.Rename(dir, filepath.Join(h.t.TempDir(), "gone")))
	h.check(os.Remove(node))
}

func (h *host) ReadPublication(key string) (string, bool) { return h.Read(key) }

func (h *host) RequestShutdown(s appliance.Shutdown) { h.Write("control/shutdown", string(s)) }

func (h *host) Acknowledged() bool {
	value, ok := h.Read("control/shutdown")
	return !ok || value == ""
}

func TestGuest(t *testing.T) {
	guesttest.TestGuest(t, func(t *testing.T) (appliance.Guest, guesttest.Hand) { return start(t) })
}

// Xen's front end gives a disk that goes away the size 0 first.
func TestSizeZeroIsGoingAway(t *testing.T) {
	g, h := start(t)
	h.Plug(3, false)
	events := make(chan appliance.DeviceEvent, 8)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.WatchDevices(ctx, func(e appliance.DeviceEvent) { events <- e }) }()
	if e := receive(t, events); !e.Plugged || e.Number != 3 {
		t.Errorf("event is %+v, want disk 3", e)
	}
	dir, _ := h.disk(3)
	h.check(os.WriteFile(filepath.Join(dir, "size"), []byte("0\n"), 0o644))
	if e := receive(t, events); e != (appliance.DeviceEvent{Number: 3}) {
		t.Errorf("event is %+v, want disk 3 gone", e)
	}
	cancel()
	if err := receive(t, ended); err != nil {
		t.Error(err)
	}
}

// VM.set_xenstore_data takes the guest's right to write.
func TestPublishWithoutPermission(t *testing.T) {
	g, h := start(t)
	h.RewriteVMData(map[string]string{control.InputPrefix + "nonce": "00"})
	err := g.Publish(t.Context(), appliance.Entry{Key: control.IdentityKey, Value: "1:2:3:4"})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), control.IdentityKey) || !strings.Contains(err.Error(), "set_xenstore_data") {
		t.Errorf("error is %v, want one that names key and cause", err)
	}
	if err := g.PowerOff(t.Context(), "idle"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("PowerOff returns %v, want fs.ErrPermission", err)
	}
	if len(h.causes) != 1 || !strings.HasPrefix(h.causes[0], "idle (the pool was not told: ") {
		t.Errorf("the machine was told %q", h.causes)
	}
}

// The pool is told the cause in a form that it takes, and the machine the whole.
func TestPowerOffCause(t *testing.T) {
	g, h := start(t)
	cause := "panic\n" + strings.Repeat("goroutine ", 500)
	if err := g.PowerOff(t.Context(), cause); err != nil {
		t.Fatal(err)
	}
	if got, _ := h.Read(control.CauseKey); got != appliance.CauseText(cause) {
		t.Errorf("published is %.80q, want %.80q", got, appliance.CauseText(cause))
	}
	if len(h.causes) != 1 || h.causes[0] != cause {
		t.Errorf("the machine was told %.80q, want %.80q", h.causes, cause)
	}
}

// A XenStore that is silent or gone keeps no machine alive.
func TestPowerOffWithoutXenStore(t *testing.T) {
	g, h := start(t)
	h.Hold()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := g.PowerOff(ctx, "idle"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("PowerOff returns %v, want the context's end", err)
	}
	if took := time.Since(began); took > time.Second || len(h.causes) != 1 {
		t.Errorf("after %v the machine was powered off %d times", took, len(h.causes))
	}
}

// What the kernel acknowledged, and what is the kernel's business, is no request of ours.
func TestShutdownOfTheKernel(t *testing.T) {
	g, h := start(t)
	words := make(chan appliance.Shutdown, 1)
	go func() {
		word, err := g.AwaitShutdown(t.Context())
		if err != nil {
			t.Error(err)
		}
		words <- word
	}()
	for _, word := range []appliance.Shutdown{"", appliance.ShutdownSuspend, "crash"} {
		h.RequestShutdown(word)
		select {
		case got := <-words:
			t.Errorf("AwaitShutdown returned %q for %q", got, word)
		case <-time.After(50 * time.Millisecond):
		}
		if got, _ := h.Read("control/shutdown"); got != string(word) {
			t.Errorf("%q was acknowledged", word)
		}
	}
	h.RequestShutdown(appliance.ShutdownReboot)
	if got := receive(t, words); got != appliance.ShutdownReboot {
		t.Errorf("AwaitShutdown returned %q, want reboot", got)
	}
}

func TestConnectionLost(t *testing.T) {
	h := &host{Store: xenstoretest.New(t), t: t}
	g, err := guestxen.Open(t.Context(), guestxen.Options{Connection: h.Connect(), PowerOff: h.powerOff})
	if err != nil {
		t.Fatal(err)
	}
	awaited := make(chan error, 1)
	go func() { _, err := g.AwaitShutdown(t.Context()); awaited <- err }()
	time.Sleep(20 * time.Millisecond)
	h.Intercept(func(xenstore.Message, []byte) []byte { return nil })
	if domain, err := g.Domain(t.Context()); err == nil || errors.Is(err, appliance.ErrNoDomain) {
		t.Errorf("Domain returns %v, %v without XenStore", domain, err)
	}
	if err := receive(t, awaited); err == nil {
		t.Error("AwaitShutdown returned without an error")
	}
	if err := g.Close(); err == nil {
		t.Error("Close does not tell that the connection was lost")
	}
}

func TestOpenRefuses(t *testing.T) {
	nothing := func(string) error { return nil }
	if _, err := guestxen.Open(t.Context(), guestxen.Options{}); err == nil {
		t.Error("opened without PowerOff")
	}
	root := t.TempDir()
	if _, err := guestxen.Open(t.Context(), guestxen.Options{Root: root, PowerOff: nothing}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), root+guestxen.Device) {
		t.Errorf("without XenStore: %v", err)
	}
	store := xenstoretest.New(t)
	store.SetQuota(xenstoretest.Quota{Watches: 0})
	if _, err := guestxen.Open(t.Context(), guestxen.Options{Connection: store.Connect(), PowerOff: nothing}); !errors.Is(err, xenstore.ErrQuota) {
		t.Errorf("without a watch: %v", err)
	}
}
