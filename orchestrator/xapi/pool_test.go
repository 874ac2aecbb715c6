package xapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// poolVariable names a real pool for the suite below, which changes nothing there:
//
//	UNDERSTUDY_TEST_POOL='https://root:password@10.0.0.2?fingerprint=SHA256-IN-HEX' go test ./orchestrator/xapi -run TestPool
//
// The password is percent-encoded where it has characters of its own; the port is 443 unless one is given; the fingerprint is that
// of the host's certificate (openssl x509 -noout -fingerprint -sha256 -in /etc/xensource/xapi-ssl.pem), with colons or without, and
// may be given several times.
const poolVariable = "UNDERSTUDY_TEST_POOL"

// TestPool runs one suite: its reading part against every pool there is, the other against a simulated one.
func TestPool(t *testing.T) {
	pool, err := xapisim.New(xapisim.Config{
		Name: "pool", Dir: t.TempDir(), Hosts: 2, AuthDelay: time.Millisecond, EventDelay: -1,
		SRs: []xapisim.SRConfig{{Name: "shared", Shared: true}, {Name: "local", Host: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.AddVM(xapisim.VMConfig{Name: "a VM", Disks: []xapisim.DiskConfig{{SR: "shared", Size: 8 << 20}}}); err != nil {
		t.Fatal(err)
	}
	simulated := xapi.Config{Addresses: pool.Addresses()[:1], Username: "root", Password: "xenroot", Fingerprints: pool.Fingerprints()[:1]}
	t.Run("simulated", func(t *testing.T) {
		readingSuite(t, simulated)
		writingSuite(t, simulated, pool)
	})
	if text := os.Getenv(poolVariable); text != "" {
		real, err := parsePool(text)
		if err != nil {
			t.Fatal(err)
		}
		t.Run("real", func(t *testing.T) { readingSuite(t, real) })
	}
}

// parsePool reads what poolVariable holds. Errors do not tell it, because of the password.
func parsePool(text string) (xapi.Config, error) {
	parsed, err := url.Parse(text)
	if err != nil || parsed.Scheme != "https" || parsed.User == nil || parsed.Host == "" {
		return xapi.Config{}, errors.New(poolVariable + " is not of the form https://user:password@host?fingerprint=…")
	}
	password, _ := parsed.User.Password()
	config := xapi.Config{
		Addresses: []string{parsed.Host}, Username: parsed.User.Username(), Password: password, Fingerprints: parsed.Query()["fingerprint"],
	}
	if len(config.Fingerprints) == 0 {
		return config, errors.New(poolVariable + " has no fingerprint of the host's certificate: add ?fingerprint=…")
	}
	return config, nil
}

func TestTheFormOfTheVariable(t *testing.T) {
	config, err := parsePool("https://root:p%40ss@[fe80::1]:8443?fingerprint=ab&fingerprint=cd")
	want := xapi.Config{Addresses: []string{"[fe80::1]:8443"}, Username: "root", Password: "p@ss", Fingerprints: []string{"ab", "cd"}}
	if diff := cmp.Diff(want, config); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, text := range []string{"", "http://root:secret@h?fingerprint=ab", "https://h?fingerprint=ab", "https://root:secret@h", "https://root:sec%ret@h"} {
		if _, err := parsePool(text); err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "sec%") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// readingSuite is what holds for every pool.
func readingSuite(t *testing.T, config xapi.Config) {
	client := dial(t, config)
	t.Run("records", func(t *testing.T) {
		sameAsRaw[xapi.VM](t, client, "VM")
		sameAsRaw[xapi.VMMetrics](t, client, "VM_metrics")
		sameAsRaw[xapi.VMGuestMetrics](t, client, "VM_guest_metrics")
		sameAsRaw[xapi.VIF](t, client, "VIF")
		sameAsRaw[xapi.VBD](t, client, "VBD")
		sameAsRaw[xapi.VDI](t, client, "VDI")
		sameAsRaw[xapi.SR](t, client, "SR")
		sameAsRaw[xapi.PBD](t, client, "PBD")
		sameAsRaw[xapi.Pool](t, client, "pool")
		sameAsRaw[xapi.Host](t, client, "host")
		sameAsRaw[xapi.HostMetrics](t, client, "host_metrics")
		sameAsRaw[xapi.Network](t, client, "network")
		sameAsRaw[xapi.PIF](t, client, "PIF")
		sameAsRaw[xapi.Task](t, client, "task")
		sameAsRaw[xapi.Message](t, client, "message")
		sameAsRaw[xapi.VTPM](t, client, "VTPM")
		sameAsRaw[xapi.Certificate](t, client, "Certificate")
	})
	t.Run("members", func(t *testing.T) {
		hosts, err := xapi.AllRecords[xapi.Host](t.Context(), client, "host")
		members := client.Members()
		if err != nil || len(members) != len(hosts) {
			t.Errorf("%v, %v: the pool has %d hosts", members, err, len(hosts))
		}
		for _, member := range members { // "" where the pool does not tell
			if shown, err := xapi.FetchFingerprint(t.Context(), member.Address); member.Fingerprint != "" && (err != nil || shown != member.Fingerprint) {
				t.Errorf("%s shows %s, the pool tells %s, %v", member.Address, shown, member.Fingerprint, err)
			}
		}
	})
	t.Run("errors", func(t *testing.T) {
		const bogus = xapi.Ref("OpaqueRef:00000000-0000-0000-0000-000000000000")
		if _, err := xapi.GetRecord[xapi.VM](t.Context(), client, "VM", bogus); !xapi.IsGone(err, bogus) {
			t.Errorf("a reference to nothing: %v", err)
		}
		if _, err := xapi.GetByUUID(t.Context(), client, "VM", "00000000-0000-0000-0000-000000000000"); !xapi.IsCode(err, "UUID_INVALID") {
			t.Errorf("a uuid of nothing: %v", err)
		}
		if err := client.Call(t.Context(), "VM.get_no_such_field", nil, bogus); !xapi.IsCode(err, "MESSAGE_METHOD_UNKNOWN") {
			t.Errorf("a method of none: %v", err)
		}
		if err := client.Call(t.Context(), "VM.get_record", nil); !xapi.IsCode(err, "MESSAGE_PARAMETER_COUNT_MISMATCH") {
			t.Errorf("a parameter too few: %v", err)
		}
	})
	t.Run("events", func(t *testing.T) { readEvents(t, client) })
	t.Run("cancellation", func(t *testing.T) {
		batch, err := client.Events(t.Context(), []string{"session"}, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		began := time.Now()
		for err == nil { // changes of others may end a wait
			batch, err = client.Events(ctx, []string{"session"}, batch.Token, 30*time.Second)
		}
		if !errors.Is(err, context.Canceled) || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
	t.Run("many at once", func(t *testing.T) {
		var group sync.WaitGroup
		for range 40 {
			group.Go(func() {
				if err := client.Call(t.Context(), "pool.get_all", nil); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
	})
	t.Run("another certificate", func(t *testing.T) {
		other := config
		other.Fingerprints = []string{strings.Repeat("ab", 32)}
		var certificate *xapi.CertificateError
		if _, err := xapi.Dial(t.Context(), other); !errors.As(err, &certificate) {
			t.Fatalf("got %v", err)
		}
		if shown, err := xapi.FetchFingerprint(t.Context(), config.Addresses[0]); err != nil || shown != certificate.Got {
			t.Errorf("%s is told on first use, %s by the error, %v", shown, certificate.Got, err)
		}
	})
	t.Run("the end of the session", func(t *testing.T) {
		second := dial(t, config)
		if err := second.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := second.Call(t.Context(), "pool.get_all", nil); !errors.Is(err, xapi.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

// sameAsRaw compares all records of a class, field by field, with what the pool sent. What either does not have is left out.
func sameAsRaw[T any](t *testing.T, client *xapi.Client, class string) {
	t.Helper()
	var raw map[xapi.Ref]json.RawMessage
	err := client.Call(t.Context(), class+".get_all_records", &raw)
	if xapi.IsCode(err, "MESSAGE_METHOD_UNKNOWN") && (class == "Certificate" || class == "VTPM") {
		return // since 8.2 and 8.3
	}
	if err != nil {
		t.Errorf("%s: %v", class, err)
	}
	for ref, text := range raw {
		event := xapi.Event{Class: class, Ref: ref, Snapshot: text}
		var record T
		if err := event.Decode(&record); err != nil {
			t.Errorf("%s: %v", class, err)
			continue
		}
		again, err := json.Marshal(record)
		var sent, kept map[string]any
		if err = errors.Join(err, json.Unmarshal(text, &sent), json.Unmarshal(again, &kept)); err != nil {
			t.Fatal(err)
		}
		for field, want := range sent {
			got, ok := kept[field]
			if ok && !cmp.Equal(want, got) && !sameTime(want, got) {
				t.Errorf("%s.%s is %v, it was sent as %v", class, field, got, want)
			}
		}
	}
}

// sameTime compares two forms of a time.
func sameTime(a, b any) bool {
	first, ok := a.(string)
	second, also := b.(string)
	x, err := xapi.ParseTime(first)
	y, err2 := xapi.ParseTime(second)
	return ok && also && err == nil && err2 == nil && x.Equal(y.Time)
}

// readEvents loads a class by its events, then waits without a change.
func readEvents(t *testing.T, client *xapi.Client) {
	batch, err := client.Events(t.Context(), []string{"network"}, "", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	networks, err := xapi.AllRecords[xapi.Network](t.Context(), client, "network")
	if err != nil || len(batch.Events) != len(networks) || batch.ValidRefCounts["network"] != int64(len(networks)) || batch.Token == "" {
		t.Errorf("%d networks, %v, by events %+v", len(networks), err, batch)
	}
	for _, event := range batch.Events {
		var network xapi.Network
		if err := event.Decode(&network); err != nil || event.Class != "network" || event.Operation != xapi.EventAdd || network.UUID != networks[event.Ref].UUID {
			t.Errorf("%+v, %v", event, err)
		}
	}
	next, err := client.Events(t.Context(), []string{"network"}, batch.Token, 200*time.Millisecond)
	if err != nil || next.Token == "" {
		t.Errorf("%+v, %v", next, err)
	}
	if _, err := client.Events(t.Context(), []string{"network"}, "no token", 0); !xapi.TokenLost(err) {
		t.Errorf("a bad token: %v", err)
	}
}

// writingSuite makes, changes and removes a disk, with an answer lost here and there.
func writingSuite(t *testing.T, config xapi.Config, pool *xapisim.Pool) {
	client := dial(t, config)
	srs, err := xapi.AllRecords[xapi.SR](t.Context(), client, "SR")
	if err != nil {
		t.Fatal(err)
	}
	var shared xapi.Ref
	for ref, sr := range srs {
		if sr.Shared {
			shared = ref
		}
	}
	disk := map[string]any{
		"name_label": "made", "SR": shared, "virtual_size": int64(8 << 20), "type": xapi.VDITypeUser, "sharable": false, "read_only": false,
		"other_config": map[string]string{"a": "b"},
	}
	var made string
	if err := client.Run(t.Context(), "VDI.create", &made, disk); err != nil {
		t.Fatal(err)
	}
	ref := xapi.Ref(made)
	// Each of these happens once, to a call that is repeated by itself.
	sessions := pool.Calls("session.login_with_password")
	pool.Fault(xapisim.Rule{Method: "VDI.remove_from_other_config", Count: 1, CutReply: true})
	pool.Fault(xapisim.Rule{Method: "VDI.add_to_other_config", Count: 1, CutReply: true})
	pool.Fault(xapisim.Rule{Method: "VDI.get_record", Count: 1, Error: &xapisim.Error{Code: "SESSION_INVALID", Params: []string{"x"}}})
	if err := xapi.SetOtherConfigKey(t.Context(), client, "VDI", ref, "a", "c"); err != nil {
		t.Error(err)
	}
	vdi, err := xapi.GetRecord[xapi.VDI](t.Context(), client, "VDI", ref)
	if err != nil || vdi.OtherConfig["a"] != "c" || vdi.VirtualSize != 8<<20 || vdi.Type != xapi.VDITypeUser {
		t.Errorf("%+v, %v", vdi, err)
	}
	if n := pool.Calls("session.login_with_password") - sessions; n != 1 {
		t.Errorf("%d logins, one was needed", n)
	}
	// The answer of a creating call is lost: it is for the caller to find what was made.
	pool.Fault(xapisim.Rule{Method: "VDI.clone", Count: 1, CutReply: true})
	if err := client.Run(t.Context(), "VDI.clone", nil, ref, map[string]string{}); !errors.Is(err, xapi.ErrOutcomeUnknown) {
		t.Errorf("got %v", err)
	}
	if ended, err := xapi.AwaitTasks(t.Context(), client, "Async.VDI.clone"); !ended || err != nil {
		t.Errorf("%v, %v", ended, err)
	}
	var clones []xapi.Ref
	if err := client.Call(t.Context(), "VDI.get_by_name_label", &clones, "made"); err != nil || len(clones) != 2 {
		t.Errorf("%v, %v", clones, err)
	}
	for _, clone := range clones {
		if err := errors.Join(xapi.DestroyVDI(t.Context(), client, clone), xapi.DestroyVDI(t.Context(), client, clone)); err != nil {
			t.Error(err)
		}
	}
	other := config
	other.Password = "wrong"
	if _, err := xapi.Dial(t.Context(), other); !errors.Is(err, xapi.ErrAuthentication) {
		t.Errorf("a wrong password: %v", err)
	}
}
