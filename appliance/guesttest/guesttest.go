package guesttest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
)

// Hand is what dom0 does to the guest. Its methods fail the test when they cannot do so.
type Hand interface {
	// WriteDomain sets who the guest is; again with another id, as a migration does.
	WriteDomain(d appliance.Domain)
	// WriteInput sets the configuration, keys without control.InputPrefix.
	WriteInput(input map[string]string)
	// Plug attaches a disk with some content, Unplug takes it away.
	Plug(number int, readOnly bool)
	Unplug(number int)
	// ReadPublication returns what the guest published under a key.
	ReadPublication(key string) (value string, ok bool)
	// RequestShutdown asks the guest to stop; Acknowledged tells whether it answered.
	RequestShutdown(s appliance.Shutdown)
	Acknowledged() bool
}

// within bounds each wait of the suite; guests under emulation are slow.
const within = 10 * time.Second

// TestGuest runs the suite. start is called once a test and returns a guest without configuration, devices or identity.
func TestGuest(t *testing.T, start func(t *testing.T) (appliance.Guest, Hand)) {
	tests := []struct {
		name string
		run  func(*testing.T, appliance.Guest, Hand)
	}{
		{"Domain", testDomain},
		{"Input", testInput},
		{"Publish", testPublish},
		{"Devices", testDevices},
		{"DevicesPresentAtStart", testDevicesPresent},
		{"Shutdown", testShutdown},
		{"Cancel", testCancel},
		{"PowerOff", testPowerOff},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			guest, hand := start(t)
			test.run(t, guest, hand)
		})
	}
}

func testDomain(t *testing.T, g appliance.Guest, h Hand) {
	if _, err := g.Domain(t.Context()); !errors.Is(err, appliance.ErrNoDomain) {
		t.Errorf("without identity: error %v, want ErrNoDomain", err)
	}
	for _, id := range []string{"first-boot", "migrated"} {
		want := appliance.Domain{VM: "4f1b7a1e-0000-4000-8000-000000000001", UniqueID: id}
		h.WriteDomain(want)
		got, err := g.Domain(t.Context())
		if err != nil || got != want {
			t.Errorf("Domain is %+v, %v, want %+v", got, err, want)
		}
	}
}

func testInput(t *testing.T, g appliance.Guest, h Hand) {
	got, err := g.Input(t.Context())
	if err != nil || len(got) != 0 {
		t.Errorf("nothing configured: Input is %v, %v, want none", got, err)
	}
	want := map[string]string{"nonce": "0123abcd", "address": "127.1.2.3/8", "orchestrator": "ff", "later-name": ""}
	h.WriteInput(want)
	got, err = g.Input(t.Context())
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("Input is %v, %v, want %v", got, err, want)
	}
}

func testPublish(t *testing.T, g appliance.Guest, h Hand) {
	entries := []appliance.Entry{
		{Key: "attr/PVAddons/MajorVersion", Value: "8"},
		{Key: "control/feature-shutdown", Value: "1"},
		{Key: control.IdentityKey, Value: "1:nonce:fingerprint:domain"},
		{Key: "control/feature-shutdown", Value: "0"},
	}
	if err := g.Publish(t.Context(), entries...); err != nil {
		t.Fatal(err)
	}
	for _, e := range []appliance.Entry{entries[0], entries[2], entries[3]} {
		if got, ok := h.ReadPublication(e.Key); !ok || got != e.Value {
			t.Errorf("published %s is %q, %v, want %q", e.Key, got, ok, e.Value)
		}
	}
}

// watch runs WatchDevices until the test is over.
func watch(t *testing.T, g appliance.Guest) <-chan appliance.DeviceEvent {
	events := make(chan appliance.DeviceEvent, 16)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.WatchDevices(ctx, func(e appliance.DeviceEvent) { events <- e }) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("WatchDevices: %v", err)
			}
		case <-time.After(within):
			t.Error("WatchDevices did not end with its context")
		}
	})
	return events
}

func next(t *testing.T, events <-chan appliance.DeviceEvent) appliance.DeviceEvent {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(within):
		t.Fatal("no device event in time")
		panic("not reached")
	}
}

func expectPlugged(t *testing.T, e appliance.DeviceEvent, number int, readOnly bool) {
	t.Helper()
	if !e.Plugged || e.Number != number || e.ReadOnly != readOnly || e.Path == "" {
		t.Errorf("event is %+v, want disk %d plugged with a path, read-only %v", e, number, readOnly)
	}
}

func testDevices(t *testing.T, g appliance.Guest, h Hand) {
	events := watch(t, g)
	h.Plug(4, false)
	expectPlugged(t, next(t, events), 4, false)
	h.Plug(17, true)
	expectPlugged(t, next(t, events), 17, true)
	h.Unplug(4)
	if e := next(t, events); e != (appliance.DeviceEvent{Number: 4}) {
		t.Errorf("event is %+v, want disk 4 gone", e)
	}
	h.Plug(4, true)
	expectPlugged(t, next(t, events), 4, true)
}

func testDevicesPresent(t *testing.T, g appliance.Guest, h Hand) {
	h.Plug(5, false)
	h.Plug(11, false)
	events := watch(t, g)
	numbers := []int{next(t, events).Number, next(t, events).Number}
	slices.Sort(numbers)
	if !slices.Equal(numbers, []int{5, 11}) {
		t.Errorf("disks at start are %v, want 5 and 11", numbers)
	}
}

func testShutdown(t *testing.T, g appliance.Guest, h Hand) {
	h.RequestShutdown(appliance.ShutdownPowerOff)
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	word, err := g.AwaitShutdown(ctx)
	if err != nil || word != appliance.ShutdownPowerOff {
		t.Errorf("AwaitShutdown is %q, %v, want %q", word, err, appliance.ShutdownPowerOff)
	}
	if !h.Acknowledged() {
		t.Error("the request was not acknowledged")
	}
}

func testCancel(t *testing.T, g appliance.Guest, _ Hand) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if word, err := g.AwaitShutdown(ctx); err == nil {
		t.Errorf("AwaitShutdown returned %q though nobody asked", word)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("AwaitShutdown ended %v after its context", took)
	}
	if err := g.Publish(ctx, appliance.Entry{Key: "attr/late", Value: "1"}); err == nil {
		t.Error("Publish succeeded with an ended context")
	}
}

func testPowerOff(t *testing.T, g appliance.Guest, h Hand) {
	const cause = "no orchestrator spoke for 15 minutes"
	if err := g.PowerOff(t.Context(), cause); err != nil {
		t.Fatal(err)
	}
	if got, ok := h.ReadPublication(control.CauseKey); !ok || got != cause {
		t.Errorf("published cause is %q, %v, want %q", got, ok, cause)
	}
}
