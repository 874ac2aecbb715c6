package xapi_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// tellMembers makes a coordinator tell who is in its pool, with certificates as hosts since 8.2 show them.
func tellMembers(coordinator *fakeHost, members ...*fakeHost) {
	hosts, certificates := map[string]any{}, map[string]any{}
	for i, member := range members {
		ref := fmt.Sprintf("OpaqueRef:host%d", i)
		address, _, _ := strings.Cut(member.address(), ":")
		hosts[ref] = map[string]any{"address": address}
		certificates[ref+"-c"] = map[string]any{"host": ref, "type": "host", "fingerprint": colons(member.fingerprint())}
		certificates[ref+"-i"] = map[string]any{"host": ref, "type": "host_internal", "fingerprint": strings.Repeat("AB:", 31) + "AB"}
	}
	coordinator.on("host.get_all_records", value(hosts))
	coordinator.on("Certificate.get_all_records", value(certificates))
}

// colons writes a fingerprint as OpenSSL does.
func colons(fingerprint string) string {
	raw, _ := hex.DecodeString(fingerprint)
	return strings.ReplaceAll(fmt.Sprintf("% X", raw), " ", ":")
}

// TestThePoolIsFoundAgain has one configured address and one pinned certificate: those of the coordinator, which goes away.
func TestThePoolIsFoundAgain(t *testing.T) {
	first := newFakeHost(t, "127.0.0.1:0")
	second := newFakeHostWith(t, "127.0.0.2:"+first.port(), newCertificate(t))
	third := newFakeHostWith(t, "127.0.0.3:"+first.port(), newCertificate(t))
	tellMembers(first, first, second, third)
	second.on("session.login_with_password", value(failure{"HOST_IS_SLAVE", "127.0.0.3"}))
	third.on("session.login_with_password", value("OpaqueRef:new"))
	third.on("VM.start", value("started"))

	first.Config.SetKeepAlivesEnabled(false)
	client := dial(t, configFor(first))
	var told []string
	for _, member := range client.Members() {
		told = append(told, member.Address+" "+member.Fingerprint)
	}
	var want []string
	for _, host := range []*fakeHost{first, second, third} {
		want = append(want, host.address()+" "+host.fingerprint())
	}
	if fmt.Sprint(told) != fmt.Sprint(want) {
		t.Errorf("the members are %v, want %v", told, want)
	}
	first.Close()
	var result string
	if err := client.Call(t.Context(), "VM.start", &result); err != nil || result != "started" {
		t.Fatalf("%q, %v", result, err)
	}
	if client.Address() != third.address() || third.count("VM.start") != 1 {
		t.Errorf("the call went to %s", client.Address())
	}
	if got := fmt.Sprint(third.last("session.logout").Params); got != "[OpaqueRef:session]" {
		t.Errorf("the session that was left was not ended: %s", got)
	}
	if len(client.Members()) != 3 {
		t.Error("a coordinator that tells nothing made the client forget the members")
	}
}

func TestWhatIsKeptOfTheMembers(t *testing.T) {
	known, other := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	config := xapi.Config{Addresses: []string{"10.0.0.1", "[fe80::1]:8443"}, Fingerprints: []string{strings.ToUpper(colons(known))}}
	got := config.Including([]xapi.Member{
		{Address: "10.0.0.1:443", Fingerprint: known}, {Address: "10.0.0.2:443", Fingerprint: other}, {Address: "[fe80::1]:8443"},
	})
	want := xapi.Config{Addresses: append(config.Addresses, "10.0.0.2:443"), Fingerprints: append(config.Fingerprints, other)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestAnotherCertificate has a new coordinator whose certificate nobody vouched for: nothing is sent to it.
func TestAnotherCertificate(t *testing.T) {
	first := newFakeHost(t, "127.0.0.1:0")
	second := newFakeHostWith(t, "127.0.0.2:"+first.port(), newCertificate(t))
	first.on("VM.start", value(failure{"HOST_IS_SLAVE", "127.0.0.2"}))
	client := dial(t, configFor(first))
	first.on("session.login_with_password", value(failure{"HOST_IS_SLAVE", "127.0.0.2"}))
	err := client.Call(t.Context(), "VM.start", nil)
	var certificate *xapi.CertificateError
	if !errors.As(err, &certificate) || certificate.Address != second.address() || certificate.Got != second.fingerprint() {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(err.Error(), "understudy pool add") || !strings.Contains(err.Error(), "--fingerprint "+second.fingerprint()) {
		t.Errorf("%q does not tell how to pin it", err)
	}
	if second.count("session.login_with_password") != 0 {
		t.Error("the password went to a host that nobody accepted")
	}
}

// TestACallWaitsForThePool refuses a call that changes things, in each way in which nothing was done, before it is taken.
func TestACallWaitsForThePool(t *testing.T) {
	for name, refusals := range map[string][]func(call) any{
		"a toolstack that starts":     {value(failure{"HOST_STILL_BOOTING"}), value(failure{"HOST_STILL_BOOTING"})},
		"a coordinator that moves":    {value(failure{"HOST_IS_SLAVE", "127.0.0.1"}), value(failure{"HOST_IS_SLAVE", "127.0.0.1"})},
		"a member in emergency":       {value(failure{"HOST_MASTER_CANNOT_TALK_BACK", "x"}), value(failure{"HOST_HAS_NO_MANAGEMENT_IP"})},
		"a session, then a toolstack": {value(failure{"SESSION_INVALID", "x"}), value(failure{"HOST_STILL_BOOTING"})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := newFakeHost(t, "127.0.0.1:0")
			host.on("VM.start", sequence(append(refusals, value("started"))...))
			var result string
			if err := dial(t, configFor(host)).Call(t.Context(), "VM.start", &result); err != nil || result != "started" {
				t.Errorf("%q, %v", result, err)
			}
		})
	}
	t.Run("no longer than the outage", func(t *testing.T) {
		t.Parallel()
		host := newFakeHost(t, "127.0.0.1:0")
		host.on("VM.start", value(failure{"HOST_STILL_BOOTING"}))
		config := configFor(host)
		config.Outage = 300 * time.Millisecond
		client := dial(t, config)
		if err := client.Call(t.Context(), "VM.start", nil); !xapi.IsCode(err, "HOST_STILL_BOOTING") || !xapi.IsTemporary(err) {
			t.Errorf("got %v", err)
		}
		if n := host.count("VM.start"); n < 2 || n > 4 {
			t.Errorf("the call was sent %d times", n)
		}
	})
	t.Run("until the caller leaves", func(t *testing.T) {
		t.Parallel()
		host := newFakeHost(t, "127.0.0.1:0")
		host.on("VM.start", value(failure{"HOST_STILL_BOOTING"}))
		client := dial(t, configFor(host))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		if err := client.Call(ctx, "VM.start", nil); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// TestWhatIsRepeated cuts the connection under one call of each kind after it was sent.
func TestWhatIsRepeated(t *testing.T) {
	host := newFakeHost(t, "127.0.0.1:0")
	client := dial(t, configFor(host))
	var group sync.WaitGroup
	defer group.Wait()
	for method, repeated := range map[string]bool{
		"VM.get_record": true, "event.from": true, "VM.assert_can_boot_here": true, "host.compute_free_memory": true,
		"VDI.list_changed_blocks": true, "VM.set_blocked_operations": true, "VM.remove_from_other_config": true, "VM.add_tags": true,
		"VM.remove_tags": true, "task.cancel": true, "SR.scan": true, "VM.update_allowed_operations": true, "task.create": true,
		"event.inject": true,

		"VM.add_to_other_config": false, "VM.set_bios_strings": false, "VM.create": false, "VDI.clone": false, "VM.snapshot": false,
		"VDI.destroy": false, "VBD.plug": false, "VM.start": false, "VM.hard_shutdown": false,
		"Async.VM.get_boot_record": false, "Async.VM.set_memory_limits": false, "Async.SR.scan": false, "nonsense": false,
	} {
		host.on(method, sequence(cut, value("done")))
		group.Go(func() {
			err := client.Call(t.Context(), method, nil)
			if n := host.count(method); repeated && (err != nil || n != 2) || !repeated && (!errors.Is(err, xapi.ErrOutcomeUnknown) || n != 1) {
				t.Errorf("%s was sent %d times: %v", method, n, err)
			}
		})
	}
}

// TestAKeyIsSetThoughAnAnswerIsLost loses the answer of the addition, which has been made.
func TestAKeyIsSetThoughAnAnswerIsLost(t *testing.T) {
	host := newFakeHost(t, "127.0.0.1:0")
	host.on("VM.remove_from_other_config", value(""))
	host.on("VM.add_to_other_config", sequence(cut, value("")))
	client := dial(t, configFor(host))
	if err := xapi.SetOtherConfigKey(t.Context(), client, "VM", "OpaqueRef:vm", "key", "value"); err != nil {
		t.Error(err)
	}
	if n := host.count("VM.remove_from_other_config"); n != 2 {
		t.Errorf("the key was removed %d times, so that the second addition finds none", n)
	}
}

// TestRunGoesOnWhenEventsAreLost gets both errors that say that a token is of no use.
func TestRunGoesOnWhenEventsAreLost(t *testing.T) {
	for _, code := range []string{"EVENTS_LOST", "EVENT_FROM_TOKEN_PARSE_FAILURE"} {
		host := hostWithTask(t, taskEvent("pending", 0, ""), value(failure{code, "x"}), taskEvent("success", 1, "<value>x</value>"))
		var result string
		if err := dial(t, configFor(host)).Run(t.Context(), "VM.clone", &result); err != nil || result != "x" {
			t.Errorf("%s: %q, %v", code, result, err)
		}
		if got := fmt.Sprint(host.last("event.from").Params); got != "[OpaqueRef:session [task/OpaqueRef:task]  10]" {
			t.Errorf("%s: the last wait was %s", code, got)
		}
	}
}

// TestAHungCoordinatorIsLeft takes the connection and answers no login: the next address is tried.
func TestAHungCoordinatorIsLeft(t *testing.T) {
	first, second := newFakeHost(t, "127.0.0.1:0"), newFakeHost(t, "127.0.0.1:0")
	first.on("session.login_with_password", hang)
	config := configFor(first, second)
	config.CallTimeout = 200 * time.Millisecond
	if client := dial(t, config); client.Address() != second.address() {
		t.Errorf("logged in at %s", client.Address())
	}
}
