package tasks

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/appliance/devices"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
)

// world is a manager with disks 0 to 3 of one sector each.
func world(t *testing.T) (*Manager, manifest.KeyID) {
	t.Helper()
	registry := devices.NewRegistry(true)
	for number := range 4 {
		path := filepath.Join(t.TempDir(), "disk.raw")
		if err := os.WriteFile(path, make([]byte, 512), 0o600); err != nil {
			t.Fatal(err)
		}
		registry.Plug(number, path, false)
	}
	key, err := manifest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	identity, err := netproto.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	m := NewManager(Options{Devices: registry, Identity: identity, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(m.Close)
	if err := m.SetKey(control.KeyRequest{Key: key.Bytes(), ID: key.ID()}); err != nil {
		t.Fatal(err)
	}
	return m, key.ID()
}

// post starts a task and fails the test when it is refused.
func post(t *testing.T, m *Manager, spec control.TaskSpec) {
	t.Helper()
	if _, _, err := m.Post(spec); err != nil {
		t.Fatal(err)
	}
}

// expectTurn sends a task the digests that it announced. That it has had its turn shows by its end: the disk is far too short.
func expectTurn(t *testing.T, m *Manager, spec control.TaskSpec) {
	t.Helper()
	body := make([]byte, spec.ExtentsBytes())
	if err := m.PutKnown(spec.ID, bytes.NewReader(body), int64(len(body))); err != nil {
		t.Fatal(err)
	}
	if spec.Kind == control.KindCopy && spec.Trusted == control.TrustManifest {
		if err := m.PutBaseline(spec.ID, 0, bytes.NewReader(body), int64(len(body))); err != nil {
			t.Fatal(err)
		}
	}
	task, err := m.task(spec.ID)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	status := task.await(ctx, control.State.Ended)
	if !strings.Contains(status.Error, "less than the logical size") {
		t.Errorf("task %s is %s, waits for %q, error %q", spec.ID, status.State, status.Waiting, status.Error)
	}
}

// A disk whose digests take much of the memory has its turn, however few are to run at once.
func TestLargeDisksHaveTheirTurn(t *testing.T) {
	const tebibyte = 1 << 40
	for _, size := range []int64{2 * tebibyte, 3 * tebibyte, 4 * tebibyte} {
		for _, parallel := range []int{1, 2, 4} {
			for _, kind := range []control.Kind{control.KindScan, control.KindCopy} {
				t.Run(fmt.Sprintf("%s %d TiB one of %d", kind, size/tebibyte, parallel), func(t *testing.T) {
					m, key := world(t)
					spec := control.TaskSpec{ID: "large", Kind: kind, Size: size, KeyID: key, Known: true, Tuning: control.Tuning{Parallel: parallel}}
					if kind == control.KindCopy {
						spec.Target, spec.Generation = 1, manifest.Generation{1}
						if size == 2*tebibyte { // two tables
							spec.Trusted = control.TrustManifest
						}
					}
					post(t, m, spec)
					expectTurn(t, m, spec)
				})
			}
		}
	}
}

// Tables that tasks in the queue have reserved do not keep the first of them from its turn.
func TestQueuedTablesLeaveTheTurn(t *testing.T) {
	m, key := world(t)
	var specs []control.TaskSpec
	for number := range 2 {
		specs = append(specs, control.TaskSpec{
			ID: fmt.Sprint(number), Kind: control.KindScan, Device: number, Size: 600 << 30, KeyID: key, Known: true,
			Tuning: control.Tuning{Parallel: 1},
		})
		post(t, m, specs[number])
	}
	for _, spec := range specs {
		expectTurn(t, m, spec)
	}
}

// A peer that dials may send ahead what the tightest of the tasks that listen for it allows.
func TestWindowOfListeners(t *testing.T) {
	m, key := world(t)
	peer, other := netproto.Fingerprint(strings.Repeat("ab", 32)), netproto.Fingerprint(strings.Repeat("cd", 32))
	for number, listener := range []struct {
		peer     netproto.Fingerprint
		address  string
		parallel int
	}{{peer, "", 1}, {peer, "", 2}, {other, "", 1}, {other, "127.0.0.1:1", 4}} {
		post(t, m, control.TaskSpec{
			ID: fmt.Sprint(number), Kind: control.KindReceive, Device: number, Size: 512, KeyID: key, Generation: manifest.Generation{1},
			Peer:   &control.Peer{Fingerprint: listener.peer, Address: listener.address, Token: bytes.Repeat([]byte{byte(number)}, 16)},
			Tuning: control.Tuning{Parallel: listener.parallel},
		})
	}
	if got := m.Window(peer); got != netproto.DefaultWindow/2 {
		t.Errorf("window is %d, want that of two", got)
	}
	if got := m.Window(other); got != netproto.DefaultWindow {
		t.Errorf("window is %d, want that of one alone", got)
	}
}
