package guesttest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
)

// Hand is what dom0 does to the guest. Its methods fail the test when they cannot do so. What they do may take a moment to reach the
// guest, and what the guest does to reach them: order is kept, and the suite waits.
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
		{"ShutdownAgain", testShutdownAgain},
		{"Concurrent", testConcurrent},
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

// eventually waits until ok, and returns whether it came to that.
func eventually(ok func() bool) bool {
	for deadline := time.Now().Add(within); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

func testDomain(t *testing.T, g appliance.Guest, h Hand) {
	if _, err := g.Domain(t.Context()); !errors.Is(err, appliance.ErrNoDomain) {
		t.Errorf("without identity: error %v, want ErrNoDomain", err)
	}
	for _, id := range []string{"first-boot", "migrated"} {
		want := appliance.Domain{VM: "4f1b7a1e-0000-4000-8000-000000000001", UniqueID: id}
		h.WriteDomain(want)
		var got appliance.Domain
		var err error
		if !eventually(func() bool { got, err = g.Domain(t.Context()); return err == nil && got == want }) {
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
	if !eventually(func() bool { got, err = g.Input(t.Context()); return err == nil && maps.Equal(got, want) }) {
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
	last := entries[len(entries)-1]
	if !eventually(func() bool { got, ok := h.ReadPublication(last.Key); return ok && got == last.Value }) {
		t.Errorf("published %s is not there", last.Key)
	}
	for _, e := range []appliance.Entry{entries[0], entries[2], last} { // who sees the last sees all
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
	expectShutdown(t, g, h, appliance.ShutdownPowerOff)
}

func expectShutdown(t *testing.T, g appliance.Guest, h Hand, want appliance.Shutdown) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	word, err := g.AwaitShutdown(ctx)
	if err != nil || word != want {
		t.Errorf("AwaitShutdown is %q, %v, want %q", word, err, want)
	}
	if !eventually(h.Acknowledged) {
		t.Error("the request was not acknowledged")
	}
}

// A request is delivered once; the next is another, also when it comes while the guest waits.
func testShutdownAgain(t *testing.T, g appliance.Guest, h Hand) {
	h.RequestShutdown(appliance.ShutdownReboot)
	expectShutdown(t, g, h, appliance.ShutdownReboot)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if word, err := g.AwaitShutdown(ctx); err == nil {
		t.Errorf("AwaitShutdown returned %q for a request that was acknowledged", word)
	}
	words := make(chan appliance.Shutdown, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		word, err := g.AwaitShutdown(ctx)
		if err != nil {
			t.Error(err)
		}
		words <- word
	}()
	time.Sleep(50 * time.Millisecond) // it waits by now
	h.RequestShutdown(appliance.ShutdownHalt)
	if word := <-words; word != appliance.ShutdownHalt || !eventually(h.Acknowledged) {
		t.Errorf("AwaitShutdown is %q, want %q, acknowledged", word, appliance.ShutdownHalt)
	}
}

// All methods may be called at once.
func testConcurrent(t *testing.T, g appliance.Guest, h Hand) {
	domain := appliance.Domain{VM: "4f1b7a1e-0000-4000-8000-000000000001", UniqueID: "boot"}
	h.WriteDomain(domain)
	h.WriteInput(map[string]string{"nonce": "0123abcd"})
	if !eventually(func() bool { input, err := g.Input(t.Context()); return err == nil && len(input) == 1 }) {
		t.Fatal("the configuration does not arrive")
	}
	events := watch(t, g)
	ctx, cancel := context.WithCancel(t.Context())
	var waiting, group sync.WaitGroup
	waiting.Go(func() {
		if word, err := g.AwaitShutdown(ctx); err == nil {
			t.Errorf("AwaitShutdown returned %q though nobody asked", word)
		}
	})
	key := func(caller int) string { return "attr/caller-" + strconv.Itoa(caller) }
	const callers, rounds = 4, 10
	for caller := range callers {
		group.Go(func() {
			for round := range rounds {
				if err := g.Publish(t.Context(), appliance.Entry{Key: key(caller), Value: strconv.Itoa(round)}); err != nil {
					t.Error(err)
				}
				if got, err := g.Domain(t.Context()); err != nil || got != domain {
					t.Errorf("Domain is %+v, %v, want %+v", got, err, domain)
				}
				if got, err := g.Input(t.Context()); err != nil || got["nonce"] != "0123abcd" {
					t.Errorf("Input is %v, %v, want the nonce", got, err)
				}
			}
		})
	}
	h.Plug(6, false)
	expectPlugged(t, next(t, events), 6, false)
	group.Wait()
	cancel()
	waiting.Wait()
	for caller := range callers {
		want := strconv.Itoa(rounds - 1)
		if !eventually(func() bool { got, _ := h.ReadPublication(key(caller)); return got == want }) {
			t.Errorf("the last value of %s is not %s", key(caller), want)
		}
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
	if !eventually(func() bool { got, ok := h.ReadPublication(control.CauseKey); return ok && got == cause }) {
		got, ok := h.ReadPublication(control.CauseKey)
		t.Errorf("published cause is %q, %v, want %q", got, ok, cause)
	}
}
