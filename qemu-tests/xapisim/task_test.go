package xapisim_test

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// finish waits for a task and gives its record.
func (c *client) finish(task string) map[string]any {
	c.t.Helper()
	eventually(c.t, "the end of a task", func() bool { return c.text("task.get_status", task) != "pending" })
	return c.record("task", task)
}

func TestTasks(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 1}}})
	made := c.finish(c.text("Async.VM.snapshot", vm, "snapshot"))
	result, _ := made["result"].(string)
	ref := strings.TrimSuffix(strings.TrimPrefix(result, "<value>"), "</value>")
	if made["status"] != "success" || made["name_label"] != "Async.VM.snapshot" || c.call("VM.get_is_a_snapshot", ref) != true ||
		made["type"] != "<none/>" || made["finished"] == "19700101T00:00:00Z" || len(made["allowed_operations"].([]any)) != 0 {
		t.Errorf("%v", made)
	}
	if void := c.finish(c.text("Async.VM.start", vm, false, false)); void["result"] != "<value></value>" {
		t.Errorf("%v", void)
	}
	failed := c.text("Async.VM.start", vm, false, false)
	if record := c.finish(failed); record["status"] != "failure" || record["result"] != "" ||
		!slices.Equal(c.list("task.get_error_info", failed), []string{"VM_BAD_POWER_STATE", vm, "halted", "running"}) {
		t.Errorf("%v", record)
	}
	hosts := c.finish(c.text("Async.VM.get_possible_hosts", vm))
	if want := "<value><array><data><value>" + c.one("host") + "</value></data></array></value>"; hosts["result"] != want {
		t.Errorf("a set: %v", hosts["result"])
	}
	c.call("task.destroy", failed)
	c.refuse("HANDLE_INVALID", []string{"task", failed}, "task.get_status", failed)
	bad := c.finish(c.text("Async.VM.start", "OpaqueRef:bad", false, false))
	if info := bad["error_info"].([]any); len(info) != 3 || info[0] != "HANDLE_INVALID" {
		t.Errorf("%v", bad)
	}
}

func TestTaskResultsAreEscaped(t *testing.T) {
	c := connect(t, newPool(t, xapisim.Config{}))
	c.refuse("INTERNAL_ERROR", nil, "Async.VM.get_possible_hosts", 5)
	task := c.text("task.create", "a<b>&c", "")
	c.call("task.set_result", task, "<value>x</value>")
	c.call("task.set_error_info", task, []string{"A", "b"})
	c.call("task.set_progress", task, 0.5)
	c.call("task.add_to_other_config", task, "k", "v")
	c.refuse("MAP_DUPLICATE_KEY", []string{"task", "other_config", task, "k"}, "task.add_to_other_config", task, "k", "v")
	c.call("task.set_status", task, "failure")
	record := c.record("task", task)
	if record["name_label"] != "a<b>&c" || record["status"] != "failure" || record["result"] != "<value>x</value>" {
		t.Errorf("%v", record)
	}
}

func TestDestroyOfARunningTaskWaits(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm"})
	task := c.text("task.create", "upload", "")
	c.call("task.destroy", task)
	if got := c.text("task.get_status", task); got != "pending" {
		t.Errorf("%s", got)
	}
	c.call("task.cancel", task) // nobody carries it out: no effect
	c.finish(c.text("Async.VM.clone", vm, "x"))
}

func TestFaults(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	sr := c.one("SR", "shared")
	remove := pool.Fault(xapisim.Rule{Method: "SR.scan", After: 1, Count: 2,
		Error: &xapisim.Error{Code: "SR_BACKEND_FAILURE_40", Params: []string{"", "scan failed", ""}}})
	c.call("SR.scan", sr)
	c.refuse("SR_BACKEND_FAILURE_40", []string{"", "scan failed", ""}, "SR.scan", sr)
	if record := c.finish(c.text("Async.SR.scan", sr)); record["status"] != "failure" {
		t.Errorf("%v", record)
	}
	c.call("SR.scan", sr)
	remove()
	defer pool.Fault(xapisim.Rule{Method: "SR.update", Delay: 50 * time.Millisecond, Count: 1})()
	before := time.Now()
	c.call("SR.update", sr)
	if time.Since(before) < 50*time.Millisecond {
		t.Error("no delay")
	}
	disks := func() int { return len(c.list("VDI.get_all")) }
	defer pool.Fault(xapisim.Rule{Method: "VDI.create", Cut: true, Count: 1})()
	defer pool.Fault(xapisim.Rule{Method: "VDI.create", CutReply: true, Count: 1})()
	for _, want := range []int{0, 1} { // cut before and after the call was carried out
		_, err := c.try("VDI.create", map[string]any{"SR": sr, "virtual_size": 1, "type": "user", "sharable": false,
			"read_only": false, "other_config": map[string]string{}})
		if _, cut := errors.AsType[*url.Error](err); !cut || disks() != want {
			t.Errorf("%v, %d disks", err, disks())
		}
	}
	if got := pool.Calls("VDI.create"); got != 2 || pool.AllCalls()["Async.SR.scan"] != 1 {
		t.Errorf("%d calls, %v", got, pool.AllCalls())
	}
}
