package xapisim_test

import (
	"encoding/json"
	"errors"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func ip(t *testing.T, address string) string {
	t.Helper()
	ip, _, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return ip
}

// at is a client of one host, whatever its role, without a session.
func at(t *testing.T, pool *xapisim.Pool, n int) *client {
	t.Helper()
	return dial(t, pool.Addresses()[n], pool.Fingerprints()[n])
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheCoordinatorFailsOver(t *testing.T) {
	pool := newPool(t, xapisim.Config{Hosts: 3, HostDeadDelay: time.Millisecond})
	c := connect(t, pool)
	hosts := map[string]string{}
	for _, h := range c.list("host.get_all") {
		hosts[c.text("host.get_address", h)] = h
	}
	first, second := hosts[ip(t, pool.Addresses()[0])], hosts[ip(t, pool.Addresses()[1])]
	there := c.vm(pool, xapisim.VMConfig{Name: "there"})
	c.call("VM.start_on", there, first, false, false)
	elsewhere := c.vm(pool, xapisim.VMConfig{Name: "elsewhere"})
	c.call("VM.start_on", elsewhere, second, false, false)
	task := c.text("task.create", "upload", "")
	_, token, _ := c.events([]string{"vm"}, "", 0)
	waiting := make(chan error, 1)
	go func() {
		_, err := c.try("event.from", []string{"vm"}, "99999999999,0", 60.0)
		waiting <- err
	}()
	eventually(t, "the wait", func() bool { return pool.Calls("event.from") == 2 })

	do(t, pool.CrashHost(0))
	if err := <-waiting; err == nil {
		t.Error("a wait at a crashed coordinator was answered")
	}
	var broken *url.Error
	if _, err := c.try("VM.get_all"); !errors.As(err, &broken) {
		t.Errorf("a crashed host answers: %v", err)
	}
	member := at(t, pool, 1)
	member.refuse("HOST_IS_SLAVE", []string{ip(t, pool.Addresses()[0])}, "session.login_with_password", "root", "xenroot")

	do(t, pool.Promote(1))
	if pool.Coordinator() != 1 || pool.Address() != pool.Addresses()[1] || pool.Fingerprint() != pool.Fingerprints()[1] {
		t.Errorf("the coordinator is %d at %s", pool.Coordinator(), pool.Address())
	}
	at(t, pool, 2).refuse("HOST_IS_SLAVE", []string{ip(t, pool.Addresses()[1])}, "session.login_with_password", "root", "xenroot")
	call := `<?xml version="1.0"?><methodCall><methodName>session.login_with_password</methodName><params>` +
		`<param><value>root</value></param><param><value>xenroot</value></param></params></methodCall>`
	xml := at(t, pool, 2)
	xml.url = strings.TrimSuffix(xml.url, "/jsonrpc")
	if _, answer := xml.post(call); !strings.Contains(string(answer), "<value>HOST_IS_SLAVE</value><value>"+ip(t, pool.Addresses()[1])+"</value>") {
		t.Errorf("a member answers by XML-RPC: %s", answer)
	}
	old := c.session
	c = connect(t, pool)
	_, err := c.raw("VM.get_all", old)
	if e, ok := errors.AsType[*apiError](err); !ok || e.code != "SESSION_INVALID" {
		t.Errorf("a session outlives its coordinator: %v", err)
	}
	c.refuse("HANDLE_INVALID", []string{"task", task}, "task.get_status", task)
	if c.text("pool.get_master", c.one("pool")) != second {
		t.Error("pool.master is another")
	}
	if events, _, _ := c.events([]string{"vm"}, token, 0); !slices.Contains(events, "vm add "+there) || !slices.Contains(events, "vm add "+elsewhere) {
		t.Errorf("an old token gives %v, want every VM as an addition", events)
	}

	// What nobody is left to notice stays in the records.
	eventually(t, "the first host to be assumed dead", func() bool {
		return c.call("host_metrics.get_live", c.text("host.get_metrics", first)) == false
	})
	if got := c.text("VM.get_power_state", there); got != "Running" {
		t.Errorf("a VM of the crashed host is %s", got)
	}
	c.refuse("HOST_OFFLINE", []string{first}, "VM.hard_shutdown", there)
	if got := c.text("VM.get_power_state", elsewhere); got != "Running" {
		t.Errorf("a VM of another host is %s", got)
	}
	boot := c.record("host", first)["other_config"].(map[string]any)["boot_time"]
	do(t, pool.BootHost(0))
	at(t, pool, 0).refuse("HOST_IS_SLAVE", []string{ip(t, pool.Addresses()[1])}, "session.login_with_password", "root", "xenroot")
	if got := c.text("VM.get_power_state", there); got != "Halted" {
		t.Errorf("a VM of the rebooted host is %s", got)
	}
	if now := c.record("host", first)["other_config"].(map[string]any)["boot_time"]; now == boot {
		t.Errorf("the boot time is still %v", now)
	}
	c.call("VM.start_on", there, first, false, false)
}

func TestABootingHostAnswersInAShapeOfItsOwn(t *testing.T) {
	pool := newPool(t, xapisim.Config{Hosts: 2, BootDelay: time.Hour})
	do(t, pool.CrashHost(0))
	do(t, pool.BootHost(0))
	for _, request := range []string{
		`{"jsonrpc":"2.0","method":"VM.get_all","params":["x"],"id":7}`, `{"method":"VM.get_all","params":["x"],"id":7}`,
	} {
		_, answer := at(t, pool, 0).post(request)
		var got any
		if err := json.Unmarshal(answer, &got); err != nil {
			t.Fatal(err)
		}
		if want := any(map[string]any{"jsonrpc": "2.0", "error": []any{"HOST_STILL_BOOTING"}, "id": 0.0}); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %s", request, answer)
		}
	}
}

func TestAToolstackRestartsWithoutItsGuests(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Running: true})
	started := func() any {
		return c.record("host", c.one("host"))["other_config"].(map[string]any)["agent_start_time"]
	}
	before, session := started(), c.session
	do(t, pool.RestartToolstack(0))
	c = at(t, pool, 0)
	c.session = session
	c.refuse("SESSION_INVALID", []string{session}, "VM.get_all")
	c = connect(t, pool)
	if c.text("VM.get_power_state", vm) != "Running" || started() == before {
		t.Error("the VM has ended, or the toolstack has not restarted")
	}
	c.awaitDrivers(vm)
	c.call("VM.clean_shutdown", vm)
}

// A member whose coordinator is gone is taken over by hand: a local session, emergency_transition_to_master, recover_slaves.
func TestEmergencyTransition(t *testing.T) {
	pool := newPool(t, xapisim.Config{Hosts: 3})
	do(t, pool.CrashHost(0))
	do(t, pool.RestartToolstack(1))
	member := at(t, pool, 1)
	if status, answer := member.post(`{"jsonrpc":"2.0","method":"session.login_with_password","params":["root","xenroot"],"id":7}`); status != 200 ||
		string(answer) != `{"error":["HOST_STILL_BOOTING"],"id":0,"jsonrpc":"2.0"}` {
		t.Errorf("a member in emergency mode: %s", answer)
	}
	_, err := member.raw("session.slave_local_login_with_password", "root", "wrong")
	if e, ok := errors.AsType[*apiError](err); !ok || e.code != "SESSION_AUTHENTICATION_FAILED" {
		t.Errorf("%v", err)
	}
	local, err := member.raw("session.slave_local_login_with_password", "root", "xenroot")
	do(t, err)
	member.session, _ = local.(string)
	member.call("pool.emergency_transition_to_master")
	eventually(t, "the new coordinator", func() bool { return pool.Coordinator() == 1 })
	var c *client
	eventually(t, "a login", func() bool {
		c = at(t, pool, 1)
		session, err := c.raw("session.login_with_password", "root", "xenroot", "1.0", "test")
		c.session, _ = session.(string)
		return err == nil
	})
	at(t, pool, 2).refuse("HOST_IS_SLAVE", []string{ip(t, pool.Addresses()[0])}, "session.login_with_password", "root", "xenroot")
	if recovered := c.list("pool.recover_slaves"); len(recovered) != 1 {
		t.Errorf("recovered %v", recovered)
	}
	eventually(t, "the member to follow", func() bool {
		_, err := at(t, pool, 2).raw("session.login_with_password", "root", "xenroot")
		e, ok := errors.AsType[*apiError](err)
		return ok && e.code == "HOST_IS_SLAVE" && e.params[0] == ip(t, pool.Addresses()[1])
	})
}

func TestANewCoordinatorIsDesignated(t *testing.T) {
	pool := newPool(t, xapisim.Config{Hosts: 2})
	c := connect(t, pool)
	var other string
	for _, h := range c.list("host.get_all") {
		if h != c.text("pool.get_master", c.one("pool")) {
			other = h
		}
	}
	c.call("pool.designate_new_master", other)
	eventually(t, "the new coordinator", func() bool { return pool.Coordinator() == 1 })
	eventually(t, "the old one to follow", func() bool {
		_, err := at(t, pool, 0).raw("session.login_with_password", "root", "xenroot")
		e, ok := errors.AsType[*apiError](err)
		return ok && e.code == "HOST_IS_SLAVE" && e.params[0] == ip(t, pool.Addresses()[1])
	})
}
