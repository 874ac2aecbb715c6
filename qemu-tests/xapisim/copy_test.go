package xapisim_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func TestCopyIntoAnExistingVDI(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	sr := c.one("SR", "shared")
	vdi, into := c.newVDI(sr, 4*mib), c.newVDI(c.one("SR", "local"), 6*mib)
	c.write(pool, vdi, mib, "base")
	base := c.text("VDI.snapshot", vdi)
	c.write(pool, vdi, 2*mib, "delta")
	c.write(pool, into, mib, "else")
	c.write(pool, into, 5*mib, "tail")
	if got := c.text("VDI.copy", vdi, nullRef, base, into); got != into {
		t.Errorf("copied to %s", got)
	}
	content := read(t, c.path(pool, into))
	if string(content[mib:mib+4]) != "else" || string(content[2*mib:2*mib+5]) != "delta" {
		t.Error("a delta must write what differs from the base, and nothing else")
	}
	c.call("VDI.copy", vdi, nullRef, nullRef, into)
	content = read(t, c.path(pool, into))
	if !bytes.Equal(content[:4*mib], read(t, c.path(pool, vdi))) || string(content[5*mib:5*mib+4]) != "tail" {
		t.Error("a full copy differs, or goes beyond the end of the original")
	}
	small := c.newVDI(sr, 2*mib)
	c.refuse("VDI_TOO_SMALL", []string{small, fmt.Sprint(4 * mib)}, "VDI.copy", vdi, nullRef, nullRef, small)
	readOnly := c.text("VDI.create", map[string]any{
		"SR": sr, "virtual_size": 4 * mib, "type": "user", "sharable": false, "read_only": true, "other_config": map[string]string{},
	})
	c.refuse("VDI_READONLY", []string{readOnly}, "VDI.copy", vdi, nullRef, nullRef, readOnly)
}

func TestVMCopyIsFull(t *testing.T) {
	pool := newPool(t, xapisim.Config{CoalesceDelay: -1})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 2 * mib, SR: "shared"}}, OtherConfig: map[string]string{"marker": "set"}})
	disk := c.text("VBD.get_VDI", c.list("VM.get_VBDs", vm)[0])
	c.write(pool, disk, 0, "content")
	for target, want := range map[string]string{nullRef: c.one("SR", "shared"), c.one("SR", "local"): c.one("SR", "local")} {
		made := c.text("VM.copy", vm, "copy", target)
		copied := c.text("VBD.get_VDI", c.list("VM.get_VBDs", made)[0])
		if c.text("VDI.get_SR", copied) != want || !bytes.Equal(read(t, c.path(pool, copied)), read(t, c.path(pool, disk))) {
			t.Error("the copy differs or lies elsewhere")
		}
		if c.parent(copied) != nil || len(c.unmanaged(want)) != 0 {
			t.Error("a full copy has a base copy")
		}
		if config := c.record("VM", made)["other_config"].(map[string]any); config["marker"] != "set" {
			t.Errorf("other_config %v", config)
		}
	}
	c.call("VM.start", vm, false, false)
	c.refuse("VM_BAD_POWER_STATE", []string{vm, "halted", "running"}, "VM.copy", vm, "copy", nullRef)
}

func TestRevertMakesAGoneVMAgain(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 2 * mib}}})
	uuid, disk := c.text("VM.get_uuid", vm), c.text("VBD.get_VDI", c.list("VM.get_VBDs", vm)[0])
	c.write(pool, disk, 0, "then")
	c.call("VDI.enable_cbt", disk)
	snapshot := c.text("VM.snapshot", vm, "snapshot")
	c.call("VM.destroy", vm)
	c.call("VM.revert", snapshot)
	again := c.text("VM.get_by_uuid", uuid)
	made := c.text("VBD.get_VDI", c.list("VM.get_VBDs", again)[0])
	if c.text("VM.get_snapshot_of", snapshot) != again || made == disk || string(read(t, c.path(pool, made))[:4]) != "then" {
		t.Error("the VM is not as it was, or kept its disk")
	}
	if c.call("VDI.get_cbt_enabled", made) != false {
		t.Error("the new disk is tracked")
	}
}

func TestRevertPassesLackOfSpaceOn(t *testing.T) {
	pool := newPool(t, xapisim.Config{SRs: []xapisim.SRConfig{{Name: "lvm", Type: "lvm", Capacity: 20 * mib}}})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 8 * mib}}})
	snapshot := c.text("VM.snapshot", vm, "snapshot")
	c.refuse("SR_BACKEND_FAILURE_44", nil, "VM.revert", snapshot)
	if got := c.list("VM.get_VBDs", vm); len(got) != 1 {
		t.Errorf("a refused revert left VBDs %v", got)
	}
}
