package xapisim_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/worlds"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// delegatePool has a delegate template and starts its clones as stand-in guests.
func delegatePool(t *testing.T, config xapisim.Config) (*xapisim.Pool, *client, string) {
	t.Helper()
	config.World = worlds.NewProcess(os.Args[0], t.TempDir())
	pool := newPool(t, config)
	template, err := pool.AddDelegateTemplate("shared", "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	return pool, connect(t, pool), template.Ref
}

// spawn clones the template and starts it as an orchestrator does.
func (c *client) spawn(template, behaviour string) string {
	c.t.Helper()
	vm := c.text("VM.clone", template, "delegate")
	c.call("VM.provision", vm)
	c.call("VM.set_xenstore_data", vm, map[string]string{
		"vm-data/understudy/in/nonce": "n0", "vm-data/understudy/in/address": "127.9.9.9/8", "vm-data/test/behaviour": behaviour,
		"dropped": "never reaches the guest",
	})
	c.call("VM.start", vm, false, false)
	return vm
}

func (c *client) data(vm string) map[string]any {
	c.t.Helper()
	return c.record("VM", vm)["xenstore_data"].(map[string]any)
}

func (c *client) identity(vm string) string {
	identity, _ := c.data(vm)["vm-data/understudy/out/identity"].(string)
	return identity
}

func TestTemplateRecord(t *testing.T) {
	_, c, template := delegatePool(t, xapisim.Config{})
	record := c.record("VM", template)
	config := record["other_config"].(map[string]any)
	if record["is_a_template"] != true || config["understudy:kind"] != "delegate-template" || config["understudy:version"] != "1.2.3" ||
		record["domain_type"] != "hvm" || record["has_vendor_device"] != false || len(c.list("VM.get_VBDs", template)) != 1 {
		t.Errorf("%v", record)
	}
}

func TestDelegateLife(t *testing.T) {
	pool, c, template := delegatePool(t, xapisim.Config{})
	vm := c.spawn(template, "")
	eventually(t, "the identity", func() bool { return c.identity(vm) != "" })
	data, identity := c.data(vm), c.identity(vm)
	if !strings.HasPrefix(identity, "0:n0:fingerprint:") || data["vm-data"] != "" || data["vm-data/understudy/in/nonce"] != "n0" {
		t.Errorf("%v", data)
	}
	for _, key := range []string{"vm-data", "vm-data/understudy", "vm-data/understudy/out"} {
		if value, ok := data[key]; !ok || value != "" {
			t.Errorf("no directory node %s in %v", key, data)
		}
	}
	if _, there := data["dropped"]; there {
		t.Error("a key outside vm-data survived the boot")
	}
	c.awaitDrivers(vm)
	metrics := c.record("VM_guest_metrics", c.text("VM.get_guest_metrics", vm))
	if networks := metrics["networks"].(map[string]any); networks["0/ip"] != "127.9.9.9" || networks["0/ipv4/0"] != "127.9.9.9" {
		t.Errorf("%v", metrics)
	}
	if other := metrics["other"].(map[string]any); other["feature-shutdown"] != "1" || metrics["PV_drivers_detected"] != true {
		t.Errorf("%v", metrics)
	}
	vdi := c.newVDI(c.one("SR", "local"), 1)
	vbd := c.newVBD(vm, vdi, "4", "RW")
	c.call("VBD.plug", vbd)
	eventually(t, "the guest's mark on its disk", func() bool { return strings.HasPrefix(string(read(t, c.path(pool, vdi))), "device 4") })
	c.call("VDI.snapshot", vdi)
	c.call("VBD.unplug", vbd)
	c.call("VM.clean_shutdown", vm)
	if got := c.data(vm)["vm-data/understudy/out/cause"]; got != "shutdown requested" {
		t.Errorf("cause %v", got)
	}
	if c.identity(vm) != identity {
		t.Error("stale vm-data went away by itself")
	}
	c.call("VM.start", vm, false, false) // the trap: what the last boot published is there before this one speaks
	eventually(t, "a new identity", func() bool { return c.identity(vm) != identity })
	c.call("VM.hard_shutdown", vm)
	c.call("VM.destroy", vm)
}

func TestDelegateThatEndsByItself(t *testing.T) {
	_, c, template := delegatePool(t, xapisim.Config{})
	vm := c.spawn(template, "exit")
	eventually(t, "the power-off", func() bool { return c.text("VM.get_power_state", vm) == "Halted" })
	if got := c.data(vm)["vm-data/understudy/out/cause"]; got != "told to exit" {
		t.Errorf("cause %v", got)
	}
}

func TestUnplugTimesOut(t *testing.T) {
	pool, c, template := delegatePool(t, xapisim.Config{HotplugTimeout: 150 * time.Millisecond})
	vm := c.spawn(template, "hold")
	c.awaitDrivers(vm)
	vdi := c.newVDI(c.one("SR", "shared"), 1)
	vbd := c.newVBD(vm, vdi, "7", "RW")
	c.call("VBD.plug", vbd)
	eventually(t, "the guest's mark on its disk", func() bool { return strings.HasPrefix(string(read(t, c.path(pool, vdi))), "device 7") })
	c.refuse("INTERNAL_ERROR", nil, "VBD.unplug", vbd)
	if c.call("VBD.get_currently_attached", vbd) != true {
		t.Error("the disk is shown as detached")
	}
	c.refuse("VDI_IN_USE", nil, "VDI.destroy", vdi)
	c.call("VBD.unplug_force", vbd) // the guest is not asked
	c.refuse("DEVICE_ALREADY_DETACHED", []string{vbd}, "VBD.unplug_force", vbd)
	c.call("VDI.destroy", vdi)
	c.call("VM.hard_shutdown", vm)
}

func TestDeafDelegate(t *testing.T) {
	_, c, template := delegatePool(t, xapisim.Config{ShutdownAckTimeout: 100 * time.Millisecond})
	vm := c.spawn(template, "deaf")
	c.awaitDrivers(vm)
	c.refuse("VM_FAILED_SHUTDOWN_ACK", []string{vm}, "VM.clean_shutdown", vm)
	c.call("VM.shutdown", vm)
	if got := c.text("VM.get_power_state", vm); got != "Halted" {
		t.Errorf("%s", got)
	}
}

// A live set_xenstore_data takes the guest's write access to vm-data.
func TestLiveSetXenStoreDataFreezesTheMirror(t *testing.T) {
	_, c, template := delegatePool(t, xapisim.Config{})
	vm := c.spawn(template, "")
	eventually(t, "the identity", func() bool { return c.identity(vm) != "" })
	c.call("VM.set_xenstore_data", vm, map[string]string{"vm-data/live": "1"})
	c.call("VM.clean_shutdown", vm) // the guest now tries to publish its cause
	if data := c.data(vm); len(data) != 1 || data["vm-data/live"] != "1" {
		t.Errorf("%v", data)
	}
}

// A snapshot is of one moment although its guest writes on, and a paused VM does not write.
func TestSnapshotsAreOfOneMoment(t *testing.T) {
	pool, c, template := delegatePool(t, xapisim.Config{SRs: []xapisim.SRConfig{{Name: "shared", Shared: true}, {Name: "raw", Type: "lvm", Garbage: true}}})
	vm := c.spawn(template, "count")
	c.awaitDrivers(vm)
	vdi := c.newVDI(c.one("SR", "raw"), 16*mib)
	c.call("VBD.plug", c.newVBD(vm, vdi, "4", "RW"))
	const size = 16 * mib
	number := func(vdi string, at int64) int {
		f, err := os.Open(c.path(pool, vdi))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		text := make([]byte, 8)
		if _, err := f.ReadAt(text, at); err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(string(text))
		if err != nil {
			return 0 // not begun yet
		}
		return n
	}
	eventually(t, "the guest's writes", func() bool { return number(vdi, size-8) > 0 })
	for range 2 {
		snapshot := c.text("VDI.snapshot", vdi)
		if first, last := number(snapshot, 0), number(snapshot, size-8); first < last || first > last+1 {
			t.Errorf("the snapshot begins at moment %d and ends at %d", first, last)
		}
		before := number(vdi, 0)
		eventually(t, "the guest to go on", func() bool { return number(vdi, 0) > before })
	}
	c.call("VM.pause", vm)
	before := number(vdi, 0)
	time.Sleep(50 * time.Millisecond)
	if after := number(vdi, 0); after != before {
		t.Errorf("a paused VM wrote: %d, then %d", before, after)
	}
	c.call("VM.unpause", vm)
	eventually(t, "the guest to go on", func() bool { return number(vdi, 0) > before })
}

func TestDelegateWithoutWorld(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	template, err := pool.AddDelegateTemplate("shared", "1")
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, pool)
	vm := c.text("VM.clone", template.Ref, "delegate")
	c.call("VM.provision", vm)
	c.refuse("INTERNAL_ERROR", nil, "VM.start", vm, false, false)
	if got := c.text("VM.get_power_state", vm); got != "Halted" || c.text("VM.get_resident_on", vm) != nullRef {
		t.Errorf("%s", got)
	}
}

func TestAddVMTakesContent(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	from := filepath.Join(t.TempDir(), "image")
	for _, adopt := range []bool{false, true} {
		if err := os.WriteFile(from, []byte("content"), 0o644); err != nil {
			t.Fatal(err)
		}
		added, err := pool.AddVM(xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{From: from, Adopt: adopt}}})
		if err != nil {
			t.Fatal(err)
		}
		content := read(t, pool.VDIPath(added.VDIs[0]))
		if !strings.HasPrefix(string(content), "content\x00") || len(content) != 2*mib {
			t.Errorf("%d bytes", len(content))
		}
		if _, err := os.Stat(from); os.IsNotExist(err) != adopt {
			t.Errorf("adopted %v: %v", adopt, err)
		}
		if record := c.record("VM", added.Ref); record["uuid"] != added.UUID {
			t.Errorf("%v", record)
		}
	}
	disks, vms := len(c.list("VDI.get_all")), len(c.list("VM.get_all"))
	if _, err := pool.AddVM(xapisim.VMConfig{Name: "x", Disks: []xapisim.DiskConfig{{Size: 1}, {From: "/nonexistent"}}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := pool.AddVM(xapisim.VMConfig{Name: "x", Disks: []xapisim.DiskConfig{{SR: "nowhere"}}}); err == nil {
		t.Error("a disk on no SR")
	}
	if _, err := pool.AddVM(xapisim.VMConfig{Name: "x", Memory: 1 << 40, Running: true, Disks: []xapisim.DiskConfig{{Size: 1}}}); err == nil {
		t.Error("a VM runs without memory")
	}
	if len(c.list("VDI.get_all")) != disks || len(c.list("VM.get_all")) != vms {
		t.Error("failed additions leave something behind")
	}
	if got := pool.VDIPath("nosuch"); got != "" {
		t.Errorf("path %q", got)
	}
}
