//go:build foreign

package foreign_test

import (
	"maps"
	"slices"
	"testing"
)

// refusal is an error as the client library gives it.
type refusal struct {
	Name, Code, Message string
	Params              []string
}

// TestSession is a day in the life of Xen Orchestra: login, a cache of all objects that follows the pool's events, calls, tasks,
// errors, a host that is not the coordinator.
func TestSession(t *testing.T) {
	pool, vm := newPool(t)
	var answer struct {
		Ref, Pool, Storage, Barrier, WatchError string

		Types         map[string]int
		Disks, Linked []string
		Errors        map[string]refusal
	}
	script(t, "session", map[string]any{
		"url": "https://" + pool.Address(), "slave": "https://" + pool.Addresses()[1], "username": username, "password": password, "vm": vm.UUID,
	}, &answer)

	types := map[string]int{
		"pool": 1, "host": 2, "host_metrics": 2, "network": 1, "PIF": 2, "SR": 2, "PBD": 3, "VDI": 2, "VBD": 2, "VIF": 1, "VM": 3, "VM_metrics": 3,
	}
	for class, count := range types {
		if answer.Types[class] != count {
			t.Errorf("%d objects of class %s, want %d", answer.Types[class], class, count)
		}
	}
	slices.Sort(answer.Disks)
	if want := slices.Sorted(slices.Values(vm.VDIs)); !slices.Equal(answer.Disks, want) {
		t.Errorf("the VM's disks by links are %v, want %v", answer.Disks, want)
	}
	if answer.Storage == "" || answer.Barrier != "žluťoučký kůň" || !slices.Equal(answer.Linked, []string{"snapshot by task"}) {
		t.Errorf("storage %q, name behind a barrier %q, snapshots %q", answer.Storage, answer.Barrier, answer.Linked)
	}
	if answer.Pool != "pool" || answer.WatchError != "" {
		t.Errorf("the pool by way of its other host is %q; the event loop's error: %q", answer.Pool, answer.WatchError)
	}

	badState := []string{answer.Ref, "halted", "running"}
	want := map[string]refusal{
		"call":   {Code: "VM_BAD_POWER_STATE", Params: badState},
		"task":   {Code: "VM_BAD_POWER_STATE", Params: badState},
		"handle": {Code: "HANDLE_INVALID", Params: []string{"VM", "OpaqueRef:nobody"}},
		"method": {Code: "MESSAGE_METHOD_UNKNOWN", Params: []string{"VM.levitate"}},
		"login":  {Code: "SESSION_AUTHENTICATION_FAILED", Params: []string{username, "Authentication failure"}},
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got := answer.Errors[name]; got.Name != "XapiError" || got.Code != want[name].Code || !slices.Equal(got.Params, want[name].Params) {
			t.Errorf("error %q is %+v, want %+v", name, got, want[name])
		}
	}
	if calls := pool.AllCalls(); calls["event.from"] == 0 || calls["Async.VM.start"] != 2 || calls["system.listMethods"] == 0 {
		t.Errorf("it made these calls: %v", calls)
	}
}
