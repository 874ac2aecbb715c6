package guestqemu_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/appliance/guestqemu"
	"github.com/understudy-dr/understudy/appliance/guesttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestGuest(t *testing.T) {
	guesttest.TestGuest(t, func(t *testing.T) (appliance.Guest, guesttest.Hand) {
		w := start(t)
		return w.guest, w
	})
}

func TestConfigurationOfBoot(t *testing.T) {
	w := newWorld(t)
	w.write(configurationFile, `{"vm":"/vm/4f1b","unique-domain-id":"boot","vm-data/understudy/in/nonce":"00","vm-data/understudy/in/deep/er":"1","vm-data/other":"x"}`)
	if err := w.open(nil); err != nil {
		t.Fatal(err)
	}
	domain, err := w.guest.Domain(t.Context())
	if want := (appliance.Domain{VM: "4f1b", UniqueID: "boot"}); err != nil || domain != want {
		t.Errorf("Domain is %+v, %v, want %+v", domain, err, want)
	}
	input, err := w.guest.Input(t.Context())
	if want := map[string]string{"nonce": "00"}; err != nil || !maps.Equal(input, want) {
		t.Errorf("Input is %v, %v, want %v", input, err, want)
	}
	if lines := w.port.lines(); len(lines) != 0 {
		t.Errorf("the guest said %q unasked", lines)
	}
}

func TestOpenRefuses(t *testing.T) {
	remove := func(path string) func(*world) {
		return func(w *world) {
			if err := os.RemoveAll(filepath.Join(w.root, path)); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	configure := func(text string) func(*world) { return func(w *world) { w.write(configurationFile, text) } }
	for name, test := range map[string]struct {
		breaks   func(*world)
		want     string
		protocol bool
	}{
		"no item":      {remove("sys/firmware"), "-fw_cfg name=opt/org.understudy/guest", false},
		"no port":      {remove("sys/class/virtio-ports/vport1p2"), "name=org.understudy.guest", false},
		"no node":      {remove("dev/vport1p2"), "no virtio-serial port", false},
		"no JSON":      {configure("vm=1"), "one JSON object", true},
		"empty":        {configure(""), "one JSON object", true},
		"number":       {configure(`{"vm":1}`), "one JSON object", true},
		"more":         {configure(`{} {}`), "something follows", true},
		"absolute key": {configure(`{"/vm":"1"}`), "relative", true},
		"long value":   {configure(`{"vm":"` + strings.Repeat("x", 4096) + `"}`), "more than 4096", true},
		"too large":    {configure(strings.Repeat(" ", 64<<10) + "{}"), "more than 65536", true},
		"cut off":      {configure(`{"vm":"1`), "one JSON object", true},
		"no directory": {remove("sys"), "-fw_cfg", false},
		"no power-off": {nil, "no PowerOff", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var change func(*guestqemu.Options)
			if test.breaks == nil {
				change = func(o *guestqemu.Options) { o.PowerOff = nil }
			} else {
				test.breaks(w)
			}
			err := w.open(change)
			if err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, guestqemu.ErrProtocol) != test.protocol {
				t.Errorf("error is %v, want %q, of the protocol %v", err, test.want, test.protocol)
			}
		})
	}
}

// The port appears after the driver.
func TestPortAppearsLate(t *testing.T) {
	w := newWorld(t)
	if err := os.RemoveAll(filepath.Join(w.root, "sys/class/virtio-ports/vport1p2")); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { w.write("sys/class/virtio-ports/vport1p2/name", guestqemu.PortName+"\n") })
	if err := w.open(func(o *guestqemu.Options) { o.PortTimeout = within }); err != nil {
		t.Fatal(err)
	}
}

func TestLinesOfPublish(t *testing.T) {
	w := start(t)
	if err := w.guest.Publish(t.Context(), appliance.Entry{Key: "data/a", Value: `<"é">`}, appliance.Entry{Key: "data/b", Value: ""}); err != nil {
		t.Fatal(err)
	}
	w.RequestShutdown(appliance.ShutdownHalt)
	if _, err := w.guest.AwaitShutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`{"write":{"data/a":"<\"é\">"}}` + "\n",
		`{"write":{"data/b":""}}` + "\n",
		`{"remove":["control/shutdown"]}` + "\n",
	}
	if got := w.port.lines(); !slices.Equal(got, want) {
		t.Errorf("lines are %q, want %q", got, want)
	}
}

func TestPublishRefuses(t *testing.T) {
	w := start(t)
	for _, e := range []appliance.Entry{
		{Key: "", Value: "1"}, {Key: "/abs", Value: "1"}, {Key: "a//b", Value: "1"}, {Key: "a/", Value: "1"},
		{Key: "a", Value: strings.Repeat("x", 4096)},
		{Key: "a", Value: strings.Repeat("\x01", 4000)}, // six bytes each in JSON
	} {
		if err := w.guest.Publish(t.Context(), e); err == nil {
			t.Errorf("entry %.20q = %.20q was published", e.Key, e.Value)
		}
	}
	if lines := w.port.lines(); len(lines) != 0 {
		t.Errorf("lines are %q, want none", lines)
	}
}

// While nobody is connected, publishing waits for as long as its context, and afterwards the order is kept.
func TestHostDisconnected(t *testing.T) {
	w := start(t)
	w.port.connect(false)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	began := time.Now()
	err := w.guest.Publish(ctx, appliance.Entry{Key: "data/lost", Value: "1"})
	if err == nil || !strings.Contains(err.Error(), "nobody reads port") || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want that nobody reads", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("Publish ended %v after its context", took)
	}
	published := make(chan error, 1)
	go func() {
		published <- w.guest.Publish(t.Context(), appliance.Entry{Key: "data/a", Value: "1"}, appliance.Entry{Key: "data/b", Value: "2"})
	}()
	// A second writer waits for its turn no longer than its context either.
	late, stop := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer stop()
	if err := w.guest.Publish(late, appliance.Entry{Key: "data/late", Value: "1"}); err == nil {
		t.Error("a second writer got through")
	}
	w.port.connect(true)
	select {
	case err := <-published:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(within):
		t.Fatal("Publish did not go on")
	}
	want := []string{`{"write":{"data/a":"1"}}` + "\n", `{"write":{"data/b":"2"}}` + "\n"}
	if got := w.port.lines(); !slices.Equal(got, want) {
		t.Errorf("lines are %q, want %q", got, want)
	}
}

// A line that the host did not end before it went is forgotten.
func TestTornLine(t *testing.T) {
	w := start(t)
	w.port.say(`{"write":{"unique-dom`)
	w.port.connect(false)
	w.eventually("the guest sees the end", w.port.ended)
	w.port.connect(true)
	want := appliance.Domain{VM: "vm", UniqueID: "second"}
	w.WriteDomain(want)
	w.port.say(`{"remove":["vm"]}` + "\n")
	w.eventually("key removed", func() bool {
		_, err := w.guest.Domain(t.Context())
		return errors.Is(err, appliance.ErrNoDomain)
	})
}

func TestProtocolErrors(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":      "shutdown\n",
		"empty line":   "\n",
		"no keys":      `{"write":{}}` + "\n",
		"both":         `{"write":{"a":"1"},"remove":["b"]}` + "\n",
		"other field":  `{"delete":["b"]}` + "\n",
		"number":       `{"write":{"a":1}}` + "\n",
		"two":          `{"remove":["a"]}{"remove":["a"]}` + "\n",
		"bad key":      `{"write":{"/a":"1"}}` + "\n",
		"long":         `{"write":{"a":"` + strings.Repeat("x", 16<<10) + `"}}` + "\n",
		"never ending": strings.Repeat("x", 16<<10),
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t)
			w.port.say(text)
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			if word, err := w.guest.AwaitShutdown(ctx); !errors.Is(err, guestqemu.ErrProtocol) {
				t.Errorf("AwaitShutdown is %q, %v, want ErrProtocol", word, err)
			}
		})
	}
}

func TestTooManyKeys(t *testing.T) {
	w := start(t)
	for i := range 1100 {
		w.say(map[string]string{"k" + strings.Repeat("k", i): ""})
	}
	if _, err := w.guest.AwaitShutdown(t.Context()); !errors.Is(err, guestqemu.ErrProtocol) {
		t.Errorf("error is %v, want ErrProtocol", err)
	}
}

// An empty word is no request, and each request is answered.
func TestShutdownWords(t *testing.T) {
	w := start(t)
	w.RequestShutdown("")
	for _, word := range []appliance.Shutdown{appliance.ShutdownSuspend, appliance.ShutdownPowerOff} {
		w.RequestShutdown(word)
		if got, err := w.guest.AwaitShutdown(t.Context()); err != nil || got != word {
			t.Errorf("AwaitShutdown is %q, %v, want %q", got, err, word)
		}
	}
}

func TestPowerOffWithoutHost(t *testing.T) {
	w := start(t)
	w.port.connect(false)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := w.guest.PowerOff(ctx, "the test is over"); err == nil {
		t.Error("PowerOff did not tell that its cause could not be published")
	}
	if len(w.off) != 1 || !strings.HasPrefix(w.off[0], "the test is over (the pool was not told: ") {
		t.Errorf("power-offs are %q, want one that tells both", w.off)
	}
}

// The pool is told the cause in a form that it takes, and the machine the whole.
func TestPowerOffCause(t *testing.T) {
	w := start(t)
	cause := "panic\n" + strings.Repeat("goroutine ", 500)
	if err := w.guest.PowerOff(t.Context(), cause); err != nil {
		t.Fatal(err)
	}
	if got, _ := w.ReadPublication(control.CauseKey); got != appliance.CauseText(cause) {
		t.Errorf("published is %.80q, want %.80q", got, appliance.CauseText(cause))
	}
	if !slices.Equal(w.off, []string{cause}) {
		t.Errorf("the machine was told %.80q, want %.80q", w.off, cause)
	}
}

// Disks whose serial is not exactly ours are left alone.
func TestForeignDisks(t *testing.T) {
	w := start(t)
	for i, serial := range []string{"", "boot", "vbd-", "vbd-04", "vbd--1", "vbd-256", "vbd-4x", "4"} {
		name := disk(9 + i)
		w.Plug(9+i, false)
		w.write("sys/block/"+name+"/serial", serial)
	}
	w.Plug(4, false)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var events []appliance.DeviceEvent
	if err := w.guest.WatchDevices(ctx, func(e appliance.DeviceEvent) { events = append(events, e) }); err != nil {
		t.Fatal(err)
	}
	if len(events) != 1 || events[0].Number != 4 {
		t.Errorf("events are %+v, want disk 4 alone", events)
	}
}
