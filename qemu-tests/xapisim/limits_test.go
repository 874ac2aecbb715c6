package xapisim_test

import (
	"slices"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func TestTheOldestSessionsGo(t *testing.T) {
	pool := newPool(t, xapisim.Config{MaxSessions: 3})
	first := connect(t, pool)
	for range 2 {
		first.call("session.login_with_password", "root", "xenroot", "1.0", "another")
	}
	first.call("VM.get_all")
	last := connect(t, pool) // a fourth of the same user
	first.refuse("SESSION_INVALID", []string{first.session}, "VM.get_all")
	last.call("VM.get_all")
}

func TestFinishedTasksGo(t *testing.T) {
	pool := newPool(t, xapisim.Config{MaxTasks: 2, TaskLifetime: time.Hour})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm"})
	pending := c.text("task.create", "an upload", "")
	first := c.text("Async.VM.clone", vm, "a")
	c.finish(first)
	c.finish(c.text("Async.VM.clone", vm, "b"))
	last := c.text("Async.VM.clone", vm, "c")
	c.finish(last)
	c.refuse("HANDLE_INVALID", []string{"task", first}, "task.get_status", first)
	if got := c.list("task.get_all"); !slices.Contains(got, pending) || !slices.Contains(got, last) {
		t.Errorf("left: %v", got)
	}
	old := newPool(t, xapisim.Config{TaskLifetime: time.Nanosecond})
	c = connect(t, old)
	task := c.text("Async.VM.clone", c.vm(old, xapisim.VMConfig{Name: "vm"}), "a")
	eventually(t, "the task to go", func() bool { _, err := c.try("task.get_status", task); return err != nil })
}

func TestTheQueueOfWaitingCallsIsBounded(t *testing.T) {
	pool := newPool(t, xapisim.Config{MaxQueue: 1, SRs: []xapisim.SRConfig{{Name: "raw", Type: "lvm", Garbage: true}}})
	c := connect(t, pool)
	sr := c.one("SR")
	busy := c.text("Async.VDI.create", map[string]any{"SR": sr, "virtual_size": 1 << 38, "type": "user", // noise for hours
		"sharable": false, "read_only": false, "other_config": map[string]string{}})
	eventually(t, "the SR's operation", func() bool { return len(c.record("SR", sr)["current_operations"].(map[string]any)) == 1 })
	waiting := []string{c.text("Async.SR.scan", sr), c.text("Async.SR.scan", sr)}
	var ended string
	eventually(t, "one of the two to be refused", func() bool {
		for _, task := range waiting {
			if c.text("task.get_status", task) == "failure" {
				ended = task
			}
		}
		return ended != ""
	})
	if got := c.list("task.get_error_info", ended); !slices.Equal(got, []string{"TOO_MANY_PENDING_TASKS"}) {
		t.Errorf("%v", got)
	}
	c.call("task.cancel", busy)
	if got := c.finish(busy)["status"]; got != "cancelled" {
		t.Errorf("the cancelled task is %v", got)
	}
}

func TestTheOldWayOfWatching(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	c.refuse("SESSION_NOT_REGISTERED", []string{c.session}, "event.next")
	c.call("event.register", []string{"vm", "task"})
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm"})
	events := c.call("event.next").([]any)
	if e := events[0].(map[string]any); len(events) != 1 || e["class"] != "vm" || e["operation"] != "add" || e["ref"] != vm || e["snapshot"] == nil {
		t.Errorf("%v", events)
	}
	for range 513 {
		c.call("task.destroy", c.succeeded())
	}
	c.refuse("EVENTS_LOST", []string{}, "event.next")
	c.call("VM.set_name_label", vm, "another")
	if events := c.call("event.next").([]any); len(events) != 1 || events[0].(map[string]any)["operation"] != "mod" {
		t.Errorf("%v", events)
	}
	c.call("event.unregister", []string{"vm", "task"})
	c.refuse("SESSION_NOT_REGISTERED", []string{c.session}, "event.next")
}

func (c *client) succeeded() string {
	task := c.text("task.create", "a", "")
	c.call("task.set_status", task, "success")
	return task
}
