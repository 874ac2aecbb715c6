package xapi_test

import (
	"errors"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// TestAPoolFailsOver has a client that was told of one host of three, and calls of every sort that are under way while that host
// crashes and another takes over.
func TestAPoolFailsOver(t *testing.T) {
	pool, err := xapisim.New(xapisim.Config{
		Name: "pool", Dir: t.TempDir(), Hosts: 3, EventDelay: -1, SRs: []xapisim.SRConfig{{Name: "shared", Shared: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	client := dial(t, xapi.Config{
		Addresses: pool.Addresses()[:1], Username: "root", Password: "xenroot", Fingerprints: pool.Fingerprints()[:1], Outage: 20 * time.Second,
	})
	networks, err := xapi.AllRecords[xapi.Network](t.Context(), client, "network")
	if err != nil {
		t.Fatal(err)
	}
	var network xapi.Ref
	for network = range networks {
		break
	}
	for name, fail := range map[string]func() error{
		"a crash": func() error {
			if err := pool.CrashHost(0); err != nil {
				return err
			}
			time.AfterFunc(300*time.Millisecond, func() {
				if err := pool.Promote(2); err != nil {
					t.Error(err)
				}
			})
			return nil
		},
		"a restart of the toolstack": func() error { return pool.RestartToolstack(pool.Coordinator()) },
	} {
		t.Run(name, func(t *testing.T) {
			watched, err := client.Events(t.Context(), []string{"network"}, "", time.Second)
			if err != nil {
				t.Fatal(err)
			}
			waited := make(chan error, 1)
			go func() {
				_, err := client.Events(t.Context(), []string{"network"}, watched.Token, 20*time.Second)
				waited <- err
			}()
			if err := fail(); err != nil {
				t.Fatal(err)
			}
			if err := client.Call(t.Context(), "network.set_name_description", nil, network, name); err != nil {
				t.Errorf("a call that changes: %v", err)
			}
			record, err := xapi.GetRecord[xapi.Network](t.Context(), client, "network", network)
			if err != nil || record.NameDescription != name {
				t.Errorf("%q, %v", record.NameDescription, err)
			}
			if err := <-waited; err != nil && !xapi.IsTemporary(err) {
				t.Errorf("a wait for events: %v", err)
			}
			if client.Address() != pool.Address() {
				t.Errorf("the client is at %s, the coordinator at %s", client.Address(), pool.Address())
			}
		})
	}
	if err := client.Close(t.Context()); err != nil && !errors.Is(err, xapi.ErrClosed) {
		t.Error(err)
	}
}
