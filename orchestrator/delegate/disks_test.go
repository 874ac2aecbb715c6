package delegate_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// plugged are the numbers of the disks that the delegate lists.
func plugged(t *testing.T, d *delegate.Delegate) []int {
	t.Helper()
	devices, err := d.Control().Devices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	for _, device := range devices {
		if device.Number != 0 { // its own
			numbers = append(numbers, device.Number)
		}
	}
	return numbers
}

func TestPlug(t *testing.T) {
	t.Parallel()
	f := newFixture(t, processWorld(t), 1)
	_, first := f.addVM("one", 4*mib)
	_, second := f.addVM("two", 2*mib)
	d := f.spawn()
	var numbers [2]int
	var group sync.WaitGroup
	for i, vdi := range []xapi.Ref{first, second} {
		group.Go(func() {
			var err error
			if numbers[i], err = d.Plug(t.Context(), vdi, 2*mib); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if got := plugged(t, d); !slices.Equal(got, []int{4, 5}) || numbers[0]+numbers[1] != 9 {
		t.Errorf("plugged as %v, listed as %v", numbers, got)
	}
	if err := d.Unplug(t.Context(), numbers[0]); err != nil {
		t.Fatal(err)
	}
	if got := plugged(t, d); !slices.Equal(got, []int{numbers[1]}) {
		t.Errorf("listed as %v after the unplug of %d", got, numbers[0])
	}
	if err := d.Unplug(t.Context(), numbers[0]); err == nil || !strings.Contains(err.Error(), "not plugged") {
		t.Errorf("unplugged twice: %v", err)
	}
	if number, err := d.Plug(t.Context(), first, 4*mib); err != nil || number != numbers[0] {
		t.Errorf("plugged again as %d, %v", number, err)
	}

	// What is plugged outlives the delegate.
	if err := d.Retire(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.nothingLeft()
	f.unwind()
}

// TestPlugFails leaves the delegate as it was.
func TestPlugFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t, processWorld(t), 1)
	_, vdi := f.addVM("one", 2*mib)
	d := f.spawn()
	vbds := len(f.vm(d.Ref).VBDs)
	for name, c := range map[string]struct {
		rule xapisim.Rule
		size int64
		want func(error) bool
	}{
		"disk too small": {size: 2*mib + 1, want: func(err error) bool { return errors.Is(err, delegate.ErrDiskSize) }},
		"plug refused": {
			rule: xapisim.Rule{Method: "VBD.plug", Error: &xapisim.Error{Code: "SR_NO_PBDS", Params: []string{"x"}}},
			want: func(err error) bool { return xapi.IsCode(err, "SR_NO_PBDS") },
		},
		"no VBD": {
			rule: xapisim.Rule{Method: "VBD.create", Error: &xapisim.Error{Code: "VDI_INCOMPATIBLE_TYPE"}},
			want: func(err error) bool { return xapi.IsCode(err, "VDI_INCOMPATIBLE_TYPE") },
		},
	} {
		remove := func() {}
		if c.rule.Method != "" {
			remove = f.sim.Fault(c.rule)
		}
		if _, err := d.Plug(t.Context(), vdi, c.size); !c.want(err) || !strings.Contains(err.Error(), d.Name()) {
			t.Errorf("%s: %v", name, err)
		}
		remove()
		if n := len(f.vm(d.Ref).VBDs); n != vbds {
			t.Errorf("%s: the delegate has %d VBDs, it had %d", name, n, vbds)
		}
	}
	// Somebody took the position between the look and the call.
	defer f.sim.Fault(xapisim.Rule{Method: "VBD.create", Count: 2, Error: &xapisim.Error{Code: "DEVICE_ALREADY_EXISTS", Params: []string{"4"}}})()
	if number, err := d.Plug(t.Context(), vdi, 2*mib); err != nil || number != 4 {
		t.Errorf("plugged as %d, %v", number, err)
	}
}

// TestPlugADiskInUse has a disk that its last user lets go late, or never.
func TestPlugADiskInUse(t *testing.T) {
	t.Parallel()
	f := newFixture(t, processWorld(t), 1)
	user, vdi := f.addVM("user", 2*mib)
	f.call("VM.start", nil, user, false, false)
	d := f.spawn()
	if _, err := d.Plug(t.Context(), vdi, 0); !xapi.IsCode(err, "VDI_IN_USE") || !strings.Contains(err.Error(), "VM user (") {
		t.Errorf("plugged while in use: %v", err)
	}
	if n := f.sim.Calls("Async.VBD.plug"); n != 10 {
		t.Errorf("%d attempts", n)
	}
	var group sync.WaitGroup
	group.Go(func() {
		time.Sleep(150 * time.Millisecond)
		f.call("VM.hard_shutdown", nil, user)
	})
	if _, err := d.Plug(t.Context(), vdi, 0); err != nil {
		t.Error(err)
	}
	group.Wait()
}

// TestPlugUnseen has a delegate that never shows the disk.
func TestPlugUnseen(t *testing.T) {
	t.Parallel()
	f := newFixture(t, honest(t), 1)
	_, vdi := f.addVM("one", 2*mib)
	f.spawner.Timeout = 3 * time.Second
	d := f.spawn()
	if _, err := d.Plug(t.Context(), vdi, 0); !errors.Is(err, delegate.ErrNotReady) || !strings.Contains(err.Error(), "not listed") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	within(t, time.Second, func() {
		if _, err := d.Plug(ctx, vdi, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	if err := d.Retire(ctx); err != nil { // the VBD goes with the VM
		t.Fatal(err)
	}
	f.nothingLeft()
}

// TestPlugWithoutDrivers has a pool that hears of the guest's drivers late, or never.
func TestPlugWithoutDrivers(t *testing.T) {
	t.Parallel()
	f := newFixture(t, processWorld(t), 1)
	_, vdi := f.addVM("one", 2*mib)
	f.spawner.Timeout = 5 * time.Second
	d := f.spawn()
	missing := xapisim.Rule{Method: "VBD.plug", Error: &xapisim.Error{Code: "VM_MISSING_PV_DRIVERS"}, Count: 3}
	f.sim.Fault(missing)
	number, err := d.Plug(t.Context(), vdi, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Unplug(t.Context(), number); err != nil {
		t.Fatal(err)
	}
	missing.Count = 0
	defer f.sim.Fault(missing)()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := d.Plug(ctx, vdi, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestUnplugFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t, processWorld(t), 1)
	_, vdi := f.addVM("one", 2*mib)
	d := f.spawn()
	number, err := d.Plug(t.Context(), vdi, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.sim.Fault(xapisim.Rule{Method: "VBD.unplug", Count: 1, Error: &xapisim.Error{Code: "INTERNAL_ERROR", Params: []string{"timed out"}}})
	if err := d.Unplug(t.Context(), number); !xapi.IsCode(err, "INTERNAL_ERROR") || !strings.Contains(err.Error(), "retired") {
		t.Errorf("got %v", err)
	}
	// The VBD outlives the unplug; the delegate knows the disk no more then.
	f.sim.Fault(xapisim.Rule{Method: "VBD.destroy", Count: 1, Error: &xapisim.Error{Code: "INTERNAL_ERROR"}})
	if err := d.Unplug(t.Context(), number); !xapi.IsCode(err, "INTERNAL_ERROR") {
		t.Errorf("got %v", err)
	}
	if err := d.Unplug(t.Context(), number); err != nil {
		t.Error(err)
	}
	if n := len(f.vm(d.Ref).VBDs); n != 1 {
		t.Errorf("%d VBDs are left", n)
	}
}

// TestUnplugUnderATask leaves the disk where it is.
func TestUnplugUnderATask(t *testing.T) {
	t.Parallel()
	f := newFixture(t, processWorld(t), 1)
	_, vdi := f.addVM("one", 64*mib)
	d := f.spawn()
	number, err := d.Plug(t.Context(), vdi, 0)
	if err != nil {
		t.Fatal(err)
	}
	// A receiver that nobody dials waits with its disk open.
	_, err = d.Control().StartTask(t.Context(), control.TaskSpec{
		ID: "waits", Kind: control.KindReceive, Device: number, Size: 64 * mib, KeyID: f.spawner.Key.ID(), Generation: manifest.NewGeneration(),
		Peer: &control.Peer{Fingerprint: d.Fingerprint, Token: control.Token(strings.Repeat("ab", 16))},
	})
	if err != nil {
		t.Fatal(err)
	}
	var refused *control.Error
	if err := d.Unplug(t.Context(), number); !errors.As(err, &refused) || refused.Code != control.CodeInUse {
		t.Errorf("got %v", err)
	}
	if got := plugged(t, d); !slices.Equal(got, []int{number}) {
		t.Errorf("listed as %v", got)
	}
}
