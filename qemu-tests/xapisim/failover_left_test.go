package xapisim_test

import (
	"bytes"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// What a call has made when its toolstack goes stays: nobody is left to clear up.
func TestADeadToolstackLeavesHalfWork(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	restart := func() {
		do(t, pool.RestartToolstack(0))
		c = connect(t, pool)
	}
	sr := c.one("SR", "shared")
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 32 * mib}, {Size: 32 * mib}}})
	disk := c.text("VBD.get_VDI", c.list("VM.get_VBDs", vm)[0])
	if c.text("VBD.get_userdevice", c.list("VM.get_VBDs", vm)[0]) == "0" {
		disk = c.text("VBD.get_VDI", c.list("VM.get_VBDs", vm)[1])
	}
	c.write(pool, disk, 0, "begin"+strings.Repeat("x", mib))
	c.write(pool, disk, 24*mib, "end")
	for _, method := range []string{"VM.snapshot", "VDI.copy"} {
		pool.Fault(xapisim.Rule{Method: method, BytesPerSecond: 16 * kib}) // a minute for the first part
	}

	c.call("Async.VM.snapshot", vm, "half") // the first disk is empty and quickly done
	eventually(t, "the second disk's turn", func() bool { return len(c.list("SR.get_VDIs", sr)) == 4 })
	restart()
	eventually(t, "the end of the snapshot", func() bool { return len(c.list("SR.get_VDIs", sr)) == 3 })
	if got := c.list("VM.get_snapshots", vm); len(got) != 0 || len(c.record("VM", vm)["current_operations"].(map[string]any)) != 0 {
		t.Errorf("half a snapshot is one: %v", got)
	}

	known := strings.Join(c.list("SR.get_VDIs", sr), " ")
	c.call("Async.VDI.copy", disk, sr)
	half := ""
	eventually(t, "the copy's first part", func() bool {
		for _, vdi := range c.list("SR.get_VDIs", sr) {
			if !strings.Contains(known, vdi) {
				half = vdi
			}
		}
		if half == "" {
			return false
		}
		content, err := os.ReadFile(c.path(pool, half))
		return err == nil && bytes.HasPrefix(content, []byte("begin"))
	})
	restart()
	eventually(t, "the end of the copy", func() bool { return len(c.record("VDI", half)["current_operations"].(map[string]any)) == 0 })
	if content := read(t, c.path(pool, half)); len(content) < 24*mib || string(content[24*mib:24*mib+3]) == "end" {
		t.Error("half a copy is whole")
	}

	file := image(t, imageContent(t, 4*mib))
	task := c.text("task.create", "import", "")
	c.begin(pool, task, file[:len(file)/2])
	eventually(t, "the objects", func() bool {
		return c.call("task.get_other_config", task).(map[string]any)["object_creation"] == "complete"
	})
	restart()
	imported := c.record("VM", c.one("VM", "Understudy delegate"))
	if imported["other_config"].(map[string]any)["import_task"] != task || len(imported["current_operations"].(map[string]any)) != 0 {
		t.Errorf("%v", imported)
	}
	c.refuse("HANDLE_INVALID", []string{"task", task}, "task.get_record", task)
}

// The control domain holds on to a disk whose upload has broken with the toolstack, until somebody lets it go.
func TestADeadToolstackLeavesDisksAttached(t *testing.T) {
	for _, power := range []bool{false, true} {
		pool := newPool(t, xapisim.Config{})
		c := connect(t, pool)
		vdi := c.newVDI(c.one("SR", "shared"), 4*mib)
		task := c.text("task.create", "import", "")
		connection := c.open(pool, "PUT", "/import_raw_vdi", url.Values{"vdi": {vdi}, "task_id": {task}}, 4*mib)
		head(t, connection)
		if _, err := connection.Write(make([]byte, mib)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the upload", func() bool { return c.call("task.get_progress", task) != 0.0 && len(c.list("VDI.get_VBDs", vdi)) == 1 })
		if power {
			do(t, pool.CrashHost(0))
			do(t, pool.BootHost(0))
		} else {
			do(t, pool.RestartToolstack(0))
		}
		c = connect(t, pool)
		time.Sleep(10 * time.Millisecond) // for whoever would clear up
		left := c.list("VDI.get_VBDs", vdi)
		if len(left) != 1 || c.call("VM.get_is_control_domain", c.text("VBD.get_VM", left[0])) != true {
			t.Fatalf("VBDs %v", left)
		}
		if !power {
			c.refuse("VDI_IN_USE", []string{vdi, "destroy"}, "VDI.destroy", vdi)
			c.call("VBD.unplug", left[0])
		}
		c.call("VBD.destroy", left[0])
		c.call("VDI.destroy", vdi)
	}
}

// A host's power goes, and with it what its guests had not flushed. The records do not know until it is back.
func TestWritesAreLostWithAHost(t *testing.T) {
	pool := newPool(t, xapisim.Config{Hosts: 2})
	c := connect(t, pool)
	hosts := byNumber(t, c, pool)
	tell(t, pool, `{"kind":"lost-writes","object":"shared"}`)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 2 * mib}}})
	c.call("VM.start_on", vm, hosts[1], false, false)
	vbd := c.list("VM.get_VBDs", vm)[0]
	vdi := c.text("VBD.get_VDI", vbd)
	c.write(pool, vdi, 0, "flushed")
	do(t, pool.Flushed(c.text("VDI.get_uuid", vdi)))
	c.write(pool, vdi, mib, "not flushed")
	do(t, pool.CrashHost(1))
	if content := read(t, c.path(pool, vdi)); !bytes.HasPrefix(content, []byte("flushed")) || bytes.Contains(content, []byte("not flushed")) {
		t.Error("the disk is not as it was flushed")
	}
	if record := c.record("VM", vm); record["power_state"] != "Running" || record["resident_on"] != hosts[1] || c.call("VBD.get_currently_attached", vbd) != true {
		t.Errorf("%v", record)
	}
	c.refuse("VDI_IN_USE", []string{vdi, "destroy"}, "VDI.destroy", vdi)
	for call, more := range map[string][]any{"VM.snapshot": {"x"}, "VM.hard_shutdown": nil, "VM.pause": nil} {
		c.refuse("CANNOT_CONTACT_HOST", []string{hosts[1]}, call, append([]any{vm}, more...)...)
	}
	c.call("VDI.snapshot", vdi) // for which the host is not needed
	do(t, pool.BootHost(1))
	if record := c.record("VM", vm); record["power_state"] != "Halted" || record["resident_on"] != nullRef || c.call("VBD.get_currently_attached", vbd) != false {
		t.Errorf("%v", record)
	}
	c.call("VM.start_on", vm, hosts[0], false, false)
}
