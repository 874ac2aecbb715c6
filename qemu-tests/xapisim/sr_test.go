package xapisim_test

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func TestLifeOfAnSR(t *testing.T) {
	pool := newPool(t, xapisim.Config{Hosts: 2, CoalesceDelay: -1, SRs: []xapisim.SRConfig{{Name: "zfs", Type: "zfs"}}})
	c := connect(t, pool)
	host := c.list("host.get_all")[0]
	c.refuse("SR_UNKNOWN_DRIVER", []string{"gfs2"}, "SR.create", host, map[string]string{}, 0, "x", "", "gfs2", "user", false)
	local := c.text("SR.create", host, map[string]string{"device": "/dev/sdb"}, 20*mib, "local", "", "ext", "user", false)
	if pbds := c.list("SR.get_PBDs", local); len(pbds) != 1 || c.call("PBD.get_host", pbds[0]) != host {
		t.Errorf("PBDs %v", pbds)
	}
	c.refuse("PBD_EXISTS", []string{local, host, c.list("SR.get_PBDs", local)[0]}, "PBD.create",
		map[string]any{"host": host, "SR": local, "device_config": map[string]string{}})
	sr := c.text("SR.create", host, map[string]string{}, 0, "shared", "", "nfs", "user", true, map[string]string{})
	if size := c.call("SR.get_physical_size", sr); size != json.Number("107374182400") {
		t.Errorf("size %v", size)
	}
	vdi := c.newVDI(sr, 2*mib, "marker")
	c.write(pool, vdi, 0, "content")
	c.call("VDI.enable_cbt", vdi)
	snapshot := c.text("VDI.snapshot", vdi)
	c.call("VDI.data_destroy", snapshot)
	kept := c.text("VDI.snapshot", vdi)
	uuids := func() []string {
		out := []string{}
		for _, ref := range c.list("SR.get_VDIs", c.text("SR.get_by_uuid", c.text("SR.get_uuid", c.one("SR", "shared")))) {
			out = append(out, c.text("VDI.get_uuid", ref)+" "+c.text("VDI.get_type", ref))
		}
		slices.Sort(out)
		return out
	}
	before, uuid, path := uuids(), c.text("SR.get_uuid", sr), c.path(pool, kept)
	for _, call := range []string{"SR.forget", "SR.destroy"} {
		c.refuse("SR_HAS_PBD", []string{sr}, call, sr)
	}
	pbds := c.list("SR.get_PBDs", sr)
	c.refuse("OPERATION_NOT_ALLOWED", []string{"PBD is currently attached"}, "PBD.destroy", pbds[0])
	for _, pbd := range pbds {
		c.call("PBD.unplug", pbd)
		c.call("PBD.unplug", pbd) // again: nothing happens
	}
	c.refuse("SR_NOT_EMPTY", []string{}, "SR.destroy", sr)
	c.call("SR.forget", sr)
	c.refuse("HANDLE_INVALID", []string{"VDI", vdi}, "VDI.get_record", vdi)

	again := c.text("SR.introduce", uuid, "shared", "", "nfs", "user", true, map[string]string{})
	c.refuse("SR_UUID_EXISTS", []string{uuid}, "SR.introduce", uuid, "x", "", "nfs", "user", true, map[string]string{})
	if size := c.call("SR.get_physical_size", again); size != json.Number("-1") {
		t.Errorf("size %v before a scan", size)
	}
	c.refuse("SR_HAS_NO_PBDS", []string{again}, "SR.scan", again)
	c.call("PBD.plug", c.text("PBD.create", map[string]any{"host": host, "SR": again, "device_config": map[string]string{}}))
	c.call("SR.scan", again)
	if after := uuids(); !slices.Equal(after, before) || len(after) != 4 { // disk, snapshot, stripped snapshot, base copy
		t.Errorf("volumes %v, were %v", after, before)
	}
	for _, ref := range c.list("SR.get_VDIs", again) {
		if c.call("VDI.get_managed", ref) == true {
			c.call("VDI.destroy", ref)
		}
	}
	c.call("PBD.unplug", c.list("SR.get_PBDs", again)[0])
	c.call("SR.destroy", again)
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a destroyed SR has left a volume: %v", err)
	}
}

func TestIntroduceVDI(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	sr := c.one("SR", "shared")
	vdi := c.newVDI(sr, 4*mib)
	uuid := c.text("VDI.get_uuid", vdi)
	introduce := func(location string) []any {
		return []any{uuid, "again", "", sr, "user", false, false, map[string]string{"k": "v"}, location, map[string]string{}, map[string]string{},
			true, 0, 0, nullRef, false, "19700101T00:00:00Z", nullRef}
	}
	c.refuse("LOCATION_NOT_UNIQUE", []string{sr, uuid}, "VDI.introduce", introduce(uuid)...)
	c.call("VDI.forget", vdi)
	c.refuse("INTERNAL_ERROR", []string{"Storage_error ([S(Vdi_does_not_exist);S(nowhere)])"}, "VDI.introduce", introduce("nowhere")...)
	record := c.record("VDI", c.text("VDI.introduce", introduce(uuid)...))
	if record["virtual_size"] != json.Number("4194304") || record["name_label"] != "again" ||
		!maps.Equal(record["other_config"].(map[string]any), map[string]any{"k": "v"}) {
		t.Errorf("%v", record)
	}
}

func TestDiscsComeAndGo(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm, disc := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: mib}}}), c.newVDI(c.one("SR", "local"), 1)
	values := vbd(vm, nullRef, "3", "RO")
	values["type"] = "CD"
	disk := c.list("VM.get_VBDs", vm)[0]
	drive := c.text("VBD.create", values)
	c.refuse("VBD_IS_EMPTY", []string{drive}, "VBD.eject", drive)
	c.refuse("VBD_NOT_REMOVABLE_MEDIA", []string{disk}, "VBD.eject", disk)
	c.call("VM.start", vm, false, false)
	c.call("VBD.insert", drive, disc)
	c.refuse("VBD_NOT_EMPTY", []string{drive}, "VBD.insert", drive, disc)
	if record := c.record("VBD", drive); record["VDI"] != disc || record["empty"] != false {
		t.Errorf("%v", record)
	}
	c.call("VBD.eject", drive)
	if got := c.list("VDI.get_VBDs", disc); len(got) != 0 {
		t.Errorf("VBDs %v", got)
	}
}
