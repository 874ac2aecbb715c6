package xapisim_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// events makes one call of event.from and gives its events as "class operation ref".
func (c *client) events(classes []string, token string, timeout float64) (events []string, next string, batch map[string]any) {
	c.t.Helper()
	batch, ok := c.call("event.from", classes, token, timeout).(map[string]any)
	if !ok {
		c.t.Fatal("event.from gives no object")
	}
	for _, item := range batch["events"].([]any) {
		e := item.(map[string]any)
		events = append(events, fmt.Sprint(e["class"], " ", e["operation"], " ", e["ref"]))
		if _, has := e["snapshot"]; has == (e["operation"] == "del") {
			c.t.Errorf("a snapshot in %v", e)
		}
	}
	next, _ = batch["token"].(string)
	return events, next, batch
}

func TestEvents(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	old := c.vm(pool, xapisim.VMConfig{Name: "old"})
	events, token, batch := c.events([]string{"VM", "sr"}, "", 10)
	if !slices.Contains(events, "vm add "+old) || !slices.Contains(events, "sr add "+c.one("SR", "local")) || len(events) != 4 {
		t.Errorf("bulk load: %v", events)
	}
	if !regexp.MustCompile(`^\d{20},\d{20}$`).MatchString(token) {
		t.Errorf("token %q", token)
	}
	counts := batch["valid_ref_counts"].(map[string]any)
	if counts["vm"] != json.Number("2") || counts["vm_guest_metrics"] != json.Number("0") {
		t.Errorf("counts %v", counts)
	}
	if events, same, _ := c.events([]string{"vm", "sr"}, token, 0.02); len(events) != 0 || same != token {
		t.Errorf("nothing happened, yet %v, token %s after %s", events, same, token)
	}
	c.call("VM.set_name_description", old, "a")
	c.call("VM.set_name_description", old, "b")
	passing := c.vm(pool, xapisim.VMConfig{Name: "passing"})
	c.call("VM.destroy", passing)
	fresh := c.vm(pool, xapisim.VMConfig{Name: "new"})
	events, token, _ = c.events([]string{"vm"}, token, 10)
	if !slices.Equal(events, []string{"vm add " + fresh, "vm mod " + old}) {
		t.Errorf("%v", events)
	}
	c.call("VM.destroy", fresh)
	if events, _, _ = c.events([]string{"VM/" + fresh}, token, 10); !slices.Equal(events, []string{"vm del " + fresh}) {
		t.Errorf("%v", events)
	}
	_, token, _ = c.events([]string{"vm"}, "", 0)
	c.call("event.inject", "vm", old)
	if events, _, _ = c.events([]string{"vm"}, token, 10); !slices.Contains(events, "vm mod "+old) {
		t.Errorf("after an injection: %v", events)
	}
}

func TestEventSubscriptionsAndTokens(t *testing.T) {
	c := connect(t, newPool(t, xapisim.Config{}))
	c.refuse("EVENT_FROM_TOKEN_PARSE_FAILURE", []string{"garbage"}, "event.from", []string{"vm"}, "garbage", 1.0)
	c.refuse("EVENT_FROM_TOKEN_PARSE_FAILURE", nil, "event.from", []string{"vm"}, "1", 1.0)
	c.refuse("EVENT_SUBSCRIPTION_PARSE_FAILURE", []string{"a/b/c"}, "event.from", []string{"a/b/c"}, "", 1.0)
	if events, _, _ := c.events([]string{"nosuch"}, "", 0.01); len(events) != 0 {
		t.Errorf("%v", events)
	}
	if events, _, _ := c.events([]string{"vm"}, "99999999999,0", 0.01); len(events) != 0 {
		t.Errorf("after a token of the future: %v", events)
	}
	all, _, _ := c.events([]string{"*"}, "", -1)
	if len(all) < 8 {
		t.Errorf("all: %v", all)
	}
}

func TestEventsWait(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm"})
	_, token, _ := c.events([]string{"vm"}, "", 0)
	go func() {
		time.Sleep(30 * time.Millisecond)
		_, _ = c.try("VM.start", vm, false, false)
	}()
	before := time.Now()
	events, _, _ := c.events([]string{"vm"}, token, 30)
	if took := time.Since(before); !slices.Contains(events, "vm mod "+vm) || took < 20*time.Millisecond || took > 10*time.Second {
		t.Errorf("%v after %v", events, took)
	}
	eventually(t, "the end of the start", func() bool { return c.text("VM.get_power_state", vm) == "Running" })
}

func TestLogoutEndsAWait(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	waiting, other := connect(t, pool), connect(t, pool)
	_, token, _ := waiting.events([]string{"vm"}, "", 0)
	ended := make(chan error, 1)
	go func() {
		_, err := waiting.try("event.from", []string{"vm"}, token, 60.0)
		ended <- err
	}()
	eventually(t, "the wait", func() bool { return pool.Calls("event.from") == 2 })
	other.session, waiting.session = waiting.session, other.session
	session := other.session
	other.call("session.logout")
	select {
	case err := <-ended:
		if e, ok := errors.AsType[*apiError](err); !ok || e.code != "SESSION_INVALID" || e.params[0] != session {
			t.Errorf("%v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the wait goes on")
	}
}

func TestCloseEndsWaits(t *testing.T) {
	pool, err := xapisim.New(xapisim.Config{Dir: t.TempDir(), Hosts: 2})
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, pool)
	_, token, _ := c.events([]string{"vm"}, "", 0)
	ended := make(chan error, 1)
	go func() {
		_, err := c.try("event.from", []string{"vm"}, token, 60.0)
		ended <- err
	}()
	eventually(t, "the wait", func() bool { return pool.Calls("event.from") == 2 })
	before := time.Now()
	pool.Close()
	if err := <-ended; err == nil || time.Since(before) > 3*time.Second {
		t.Errorf("closed after %v, the wait ended with %v", time.Since(before), err)
	}
}

func TestDeletionsAreBounded(t *testing.T) {
	pool := newPool(t, xapisim.Config{MaxTasks: 1000})
	c := connect(t, pool)
	var tasks []string
	for range 600 {
		tasks = append(tasks, c.text("task.create", "a", ""))
	}
	for _, task := range tasks {
		c.call("task.set_status", task, "success")
	}
	_, token, _ := c.events([]string{"task"}, "", 0)
	for _, task := range tasks {
		c.call("task.destroy", task)
	}
	if events, _, _ := c.events([]string{"task"}, token, 0); len(events) != 512 {
		t.Errorf("%d deletions are remembered", len(events))
	}
}
