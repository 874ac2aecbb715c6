package xapisim_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// gateCodes are the codes with which the gate of a class refuses what its allowed_operations do not list. The sharing rule
// of disks is no part of the gate that allowed_operations are made of (xapi-facts §6.4), nor is what storage drivers say.
var gateCodes = map[string][]string{
	"VBD": {
		"OTHER_OPERATION_IN_PROGRESS", "OPERATION_NOT_ALLOWED", "VM_BAD_POWER_STATE", "VM_MISSING_PV_DRIVERS", "VBD_NOT_UNPLUGGABLE",
		"VBD_NOT_REMOVABLE_MEDIA", "VBD_IS_EMPTY", "VBD_NOT_EMPTY", "DEVICE_ALREADY_ATTACHED", "DEVICE_ALREADY_DETACHED", "VDI_NOT_MANAGED",
	},
	"VIF": {
		"OTHER_OPERATION_IN_PROGRESS", "OPERATION_NOT_ALLOWED", "VM_BAD_POWER_STATE", "VM_MISSING_PV_DRIVERS", "DEVICE_ALREADY_ATTACHED",
		"DEVICE_ALREADY_DETACHED",
	},
	"VDI": {
		"OTHER_OPERATION_IN_PROGRESS", "OPERATION_NOT_ALLOWED", "VDI_IN_USE", "VDI_NOT_MANAGED", "VDI_INCOMPATIBLE_TYPE",
		"VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION", "SR_NO_PBDS", "SR_OPERATION_NOT_SUPPORTED",
	},
	"SR": {"OTHER_OPERATION_IN_PROGRESS", "SR_OPERATION_NOT_SUPPORTED", "SR_HAS_PBD", "SR_NO_PBDS", "SR_NOT_EMPTY"},
}

// deviceWorld is a VM with what can be attached to it, on an SR of its own.
type deviceWorld struct {
	rt                                *rapid.T
	c                                 *client
	vm, sr, pbd, host, vdi, disc, vif string
	vbds                              []string
	vdis                              []string
}

// TestGatesTellTheTruth makes random calls of VBDs, VIFs, VDIs and SRs in random states. What an object's
// allowed_operations list, its gate must let pass; what they do not list it must refuse.
func TestGatesTellTheTruth(t *testing.T) {
	pool := newPool(t, xapisim.Config{GuestDelay: time.Millisecond, GuestMetricsDelay: time.Millisecond})
	c := connect(t, pool)
	host := c.one("host")
	rapid.Check(t, func(rt *rapid.T) {
		w := &deviceWorld{rt: rt, c: c, host: host}
		kind := rapid.SampledFrom([]string{"ext", "ext", "ext", "iso"}).Draw(rt, "driver")
		w.sr = c.text("SR.create", host, map[string]any{}, 0, "s", "", kind, "", false, map[string]any{})
		w.pbd = c.list("SR.get_PBDs", w.sr)[0]
		w.vm = addVM(t, pool, xapisim.VMConfig{Name: "v", Disks: []xapisim.DiskConfig{{Size: mib, SR: "local"}}})
		w.vbds = c.list("VM.get_VBDs", w.vm)
		w.vdi, w.disc = c.newVDI(w.sr, mib), c.newVDI(w.sr, mib)
		w.vdis = []string{w.vdi, w.disc, c.text("VBD.get_VDI", w.vbds[0])}
		w.vbds = append(w.vbds, c.newVBD(w.vm, w.vdi, "4", "RW"), c.newVBD(w.vm, w.disc, "5", "RO"))
		drive := vbd(w.vm, nullRef, "6", "RO")
		drive["type"], drive["empty"] = "CD", true
		w.vbds = append(w.vbds, c.text("VBD.create", drive))
		w.vif = c.list("VM.get_VIFs", w.vm)[0]
		for range rapid.IntRange(3, 9).Draw(rt, "steps") {
			if rapid.Bool().Draw(rt, "change") {
				w.change()
			} else {
				w.attempt()
			}
			for _, difference := range pool.Inconsistencies() {
				rt.Error(difference)
			}
		}
		_, _ = c.try("VM.hard_shutdown", w.vm) // as far as it runs
	})
}

// change brings something into another state, as far as it can be.
func (w *deviceWorld) change() {
	vbd := rapid.SampledFrom(w.vbds).Draw(w.rt, "vbd")
	vdi := rapid.SampledFrom(w.vdis).Draw(w.rt, "vdi")
	calls := map[string]func() error{
		"start": func() error {
			_, err := w.c.try("VM.start", w.vm, false, false)
			awaitAgent(w.c, w.vm)
			return err
		},
		"stop":    func() error { _, err := w.c.try("VM.hard_shutdown", w.vm); return err },
		"pause":   func() error { _, err := w.c.try("VM.pause", w.vm); return err },
		"unpause": func() error { _, err := w.c.try("VM.unpause", w.vm); return err },
		"fasten": func() error {
			_, err := w.c.try("VBD.set_unpluggable", vbd, rapid.Bool().Draw(w.rt, "unpluggable"))
			return err
		},
		"reset":      func() error { _, err := w.c.try("VDI.set_on_boot", vdi, "reset"); return err },
		"persist":    func() error { _, err := w.c.try("VDI.set_on_boot", vdi, "persist"); return err },
		"unplug SR":  func() error { _, err := w.c.try("PBD.unplug", w.pbd); return err },
		"plug SR":    func() error { _, err := w.c.try("PBD.plug", w.pbd); return err },
		"remove PBD": func() error { _, err := w.c.try("PBD.destroy", w.pbd); return err },
		"empty SR": func() error {
			_, err := w.c.try("VDI.forget", vdi)
			return err
		},
	}
	names := make([]string, 0, len(calls))
	for name := range calls {
		names = append(names, name)
	}
	slices.Sort(names)
	_ = calls[rapid.SampledFrom(append(names, "start", "start")).Draw(w.rt, "what")]() // refused where it does not fit
}

// attempt makes a call and holds its answer against allowed_operations.
func (w *deviceWorld) attempt() {
	vbd := rapid.SampledFrom(w.vbds).Draw(w.rt, "vbd")
	vdi := rapid.SampledFrom(w.vdis).Draw(w.rt, "vdi")
	disk := map[string]any{
		"name_label": "n", "name_description": "", "SR": w.sr, "virtual_size": mib, "type": "user", "sharable": false, "read_only": false,
		"other_config": map[string]any{},
	}
	type attempt struct {
		class, operation, method string
		object                   string
		args                     []any
	}
	a := rapid.SampledFrom([]attempt{
		{"VBD", "plug", "VBD.plug", vbd, []any{vbd}},
		{"VBD", "unplug", "VBD.unplug", vbd, []any{vbd}},
		{"VBD", "unplug_force", "VBD.unplug_force", vbd, []any{vbd}},
		{"VBD", "insert", "VBD.insert", vbd, []any{vbd, w.disc}},
		{"VBD", "eject", "VBD.eject", vbd, []any{vbd}},
		{"VIF", "plug", "VIF.plug", w.vif, []any{w.vif}},
		{"VIF", "unplug", "VIF.unplug", w.vif, []any{w.vif}},
		{"VDI", "snapshot", "VDI.snapshot", vdi, []any{vdi}},
		{"VDI", "clone", "VDI.clone", vdi, []any{vdi}},
		{"VDI", "copy", "VDI.copy", vdi, []any{vdi, w.sr}},
		{"VDI", "resize", "VDI.resize", vdi, []any{vdi, 4 * mib}},
		{"VDI", "resize_online", "VDI.resize_online", vdi, []any{vdi, 4 * mib}},
		{"VDI", "update", "VDI.update", vdi, []any{vdi}},
		{"VDI", "forget", "VDI.forget", vdi, []any{vdi}},
		{"VDI", "destroy", "VDI.destroy", vdi, []any{vdi}},
		{"SR", "scan", "SR.scan", w.sr, []any{w.sr}},
		{"SR", "update", "SR.update", w.sr, []any{w.sr}},
		{"SR", "vdi_create", "VDI.create", w.sr, []any{disk}},
		{"SR", "forget", "SR.forget", w.sr, []any{w.sr}},
		{"SR", "destroy", "SR.destroy", w.sr, []any{w.sr}},
	}).Draw(w.rt, "attempt")
	allowed, err := w.c.try(a.class+".get_allowed_operations", a.object)
	if err != nil {
		return // it has gone
	}
	list, _ := allowed.([]any)
	_, err = w.c.try(a.method, a.args...)
	var apiErr *apiError
	if errors.As(err, &apiErr) && apiErr.code == "HANDLE_INVALID" {
		return // what it was to take has gone
	}
	refused := apiErr != nil && slices.Contains(gateCodes[a.class], apiErr.code)
	if listed := slices.Contains(list, any(a.operation)); listed == refused {
		w.rt.Errorf("%s answers %v, but allowed_operations are %v", a.method, err, allowed)
	}
}

// awaitAgent waits until what the guest announces, on which its gates depend, no longer changes.
func awaitAgent(c *client, vm string) {
	eventually(c.t, "the agent of a VM", func() bool {
		if state, err := c.try("VM.get_power_state", vm); err != nil || state != "Running" && state != "Paused" {
			return true
		}
		metrics, _ := c.try("VM.get_guest_metrics", vm)
		able, _ := c.try("VM_guest_metrics.get_can_use_hotplug_vif", metrics)
		return able == "yes"
	})
}
