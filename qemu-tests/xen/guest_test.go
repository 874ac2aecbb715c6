//go:build xen

package xen_test

import (
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen"
)

// What a delegate does as a PV guest: it makes itself known through XenStore, takes and gives disks while it works, outlives the
// loss of one, and ends when the pool asks.
func TestGuest(t *testing.T) {
	s := newSite(t, newStore(t), "guest", xen.PV)
	const loadSize, noise = 192 * mib, 128 * mib // some twelve seconds of hashing
	load, loadContent := s.disk(t, "load", loadSize, noise)
	small, smallContent := s.disk(t, "small", 8*mib, 2*mib)
	w := spawn(t, s)
	published(t, w)
	console(t, w.console(), "max_ring_page_order=3")

	loadDevice, err := w.Plug(t.Context(), load, loadSize)
	must(t, err)
	t.Run("HotplugUnderLoad", func(t *testing.T) {
		w.scan("load", loadDevice, loadSize)
		for _, id := range []string{"small-1", "small-2"} {
			w.awaitRunning("load")
			began := time.Now()
			device, err := w.Plug(t.Context(), small, int64(len(smallContent)))
			must(t, err)
			t.Logf("attached in %v", time.Since(began).Round(10*time.Millisecond))
			w.scan(id, device, int64(len(smallContent)))
			w.expectRoot(id, smallContent)
			began = time.Now()
			must(t, w.Unplug(t.Context(), device))
			t.Logf("detached in %v", time.Since(began).Round(10*time.Millisecond))
			if status, err := w.Control().Task(t.Context(), "load"); err != nil || status.State.Ended() {
				break // the second time is for slow machines
			}
		}
		w.expectRoot("load", loadContent)
	})
	t.Run("InUse", func(t *testing.T) {
		w.scan("busy", loadDevice, loadSize)
		w.awaitRunning("busy")
		var refused *control.Error
		if err := w.Unplug(t.Context(), loadDevice); !errors.As(err, &refused) || refused.Code != control.CodeInUse {
			t.Errorf("the disk of a running task was unplugged: %v", err)
		}
	})
	t.Run("SurpriseRemoval", func(t *testing.T) {
		w.awaitRunning("busy")
		w.unplugByPool(loadDevice)
		status, err := w.Control().WaitTask(t.Context(), "busy")
		must(t, err)
		if status.State != control.StateFailed || status.Error == "" {
			t.Errorf("a task without its disk is %s: %q", status.State, status.Error)
		}
		t.Logf("the task says: %s", status.Error)
		device, err := w.Plug(t.Context(), small, int64(len(smallContent))) // the delegate lives
		must(t, err)
		w.scan("after", device, int64(len(smallContent)))
		w.expectRoot("after", smallContent)
		must(t, w.Unplug(t.Context(), device))
	})
	t.Run("CleanShutdown", func(t *testing.T) {
		began := time.Now()
		must(t, s.delegate.API.Run(t.Context(), "VM.clean_shutdown", nil, w.Ref))
		vm := w.record()
		if cause := vm.XenstoreData[control.CauseKey]; vm.PowerState != xapi.Halted || cause == "" {
			t.Errorf("the VM is %s, with the cause %q", vm.PowerState, cause)
		} else {
			t.Logf("halted in %v: %s", time.Since(began).Round(100*time.Millisecond), cause)
		}
		console(t, w.console(), "power off")
	})
}

// published checks what the pool shows of a delegate that was just spawned.
func published(t *testing.T, w *workbench) {
	t.Helper()
	vm := w.record()
	identity, err := control.ParseIdentity(vm.XenstoreData[control.IdentityKey])
	must(t, err)
	status, err := w.Control().Status(t.Context())
	must(t, err)
	if identity.Fingerprint != w.Fingerprint || identity.UniqueDomainID != status.UniqueDomainID || status.VM != w.UUID {
		t.Errorf("published %+v, and says over TLS %+v", identity, status)
	}
	var networks map[string]string
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		var metrics xapi.Ref
		must(t, w.site.delegate.API.Call(t.Context(), "VM.get_guest_metrics", &metrics, w.Ref))
		if !metrics.IsNull() {
			must(t, w.site.delegate.API.Call(t.Context(), "VM_guest_metrics.get_networks", &networks, metrics))
			if len(networks) > 0 {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("no address in the guest metrics")
		}
	}
	if address := networks["0/ip"]; !strings.HasPrefix(w.Address, address+":") {
		t.Errorf("the guest metrics have %v, the delegate listens on %s", networks, w.Address)
	}
}

// unplugByPool takes a disk from under the delegate, as an administrator might.
func (w *workbench) unplugByPool(device int) {
	w.t.Helper()
	for _, ref := range w.record().VBDs {
		vbd, err := xapi.GetRecord[xapi.VBD](w.t.Context(), w.site.delegate.API, "VBD", ref)
		must(w.t, err)
		if vbd.UserDevice == strconv.Itoa(device) {
			must(w.t, w.site.delegate.API.Run(w.t.Context(), "VBD.unplug", nil, ref))
			return
		}
	}
	w.t.Fatalf("no VBD at position %d", device)
}

// scan starts a scan of a disk.
func (w *workbench) scan(id string, device int, size int64) {
	w.t.Helper()
	_, err := w.Control().StartTask(w.t.Context(), control.TaskSpec{ID: id, Kind: control.KindScan, Device: device, Size: size, KeyID: w.key.ID()})
	must(w.t, err)
}

// awaitRunning waits until a task has read something.
func (w *workbench) awaitRunning(id string) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		status, err := w.Control().Task(w.t.Context(), id)
		must(w.t, err)
		if status.State == control.StateRunning && status.Counters.Read > 0 {
			return
		}
		if status.State.Ended() || time.Now().After(deadline) {
			w.t.Fatalf("task %s is %s: %s", id, status.State, status.Error)
		}
	}
}

// expectRoot waits for a scan that must succeed and compares its root with the content's.
func (w *workbench) expectRoot(id string, content []byte) {
	w.t.Helper()
	status, err := w.Control().WaitTask(w.t.Context(), id)
	must(w.t, err)
	if status.State != control.StateDone {
		w.t.Fatalf("task %s is %s: %s", id, status.State, status.Error)
	}
	if want := root(w.t, w.key, content); status.Root != want {
		w.t.Errorf("task %s: root %s, want %s", id, status.Root, want)
	}
}

// record is the delegate's VM as the pool shows it.
func (w *workbench) record() xapi.VM {
	w.t.Helper()
	vm, err := xapi.GetRecord[xapi.VM](w.t.Context(), w.site.delegate.API, "VM", w.Ref)
	must(w.t, err)
	return vm
}

// console is the file with what the delegate prints: it has booted once.
func (w *workbench) console() string {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(shared.consoles, w.UUID+".*", "console.log"))
	must(w.t, err)
	if len(files) != 1 {
		w.t.Fatalf("the consoles of %s are %v", w.Name(), files)
	}
	return files[0]
}
