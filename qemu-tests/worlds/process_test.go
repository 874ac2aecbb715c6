package worlds_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/qemu-tests/worlds"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/standin"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func TestMain(m *testing.M) {
	standin.RunIfGuest()
	goleak.VerifyTestMain(m)
}

// start boots a stand-in guest; the test ends with it gone.
func start(t *testing.T, behaviour string) (guest xapisim.Guest, dir string) {
	t.Helper()
	dir = t.TempDir()
	guest, err := worlds.NewProcess(os.Args[0], dir).Start(t.Context(), xapisim.Machine{
		UUID: "11111111-2222-4333-8444-555555555555", Name: "delegate", DomainID: 7, UniqueDomainID: "boot-1",
		Data: map[string]string{
			"vm-data/understudy/in/nonce": "abcd", "vm-data/understudy/in/address": "127.5.6.7/8", "vm-data/understudy/out": "",
			"vm-data/test/behaviour": behaviour,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := guest.Kill(); err != nil {
			t.Error(err)
		}
		<-guest.Done()
	})
	return guest, filepath.Join(dir, "11111111-2222-4333-8444-555555555555.7")
}

// await waits until the tree shows a key.
func await(t *testing.T, guest xapisim.Guest, key string) string {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		tree, err := guest.Tree()
		if err == nil && tree[key] != "" {
			return tree[key]
		}
		select {
		case <-guest.Changed():
		case <-deadline:
			t.Fatalf("no %s in %v, %v", key, tree, err)
		}
	}
}

func TestGuestPublishes(t *testing.T) {
	guest, dir := start(t, "")
	if got := await(t, guest, "vm-data/understudy/out/identity"); got != "0:abcd:fingerprint:boot-1" {
		t.Errorf("identity %q", got)
	}
	if got := await(t, guest, "attr/vif/0/ipv4/0"); got != "127.5.6.7" {
		t.Errorf("address %q", got)
	}
	tree, err := guest.Tree()
	if err != nil {
		t.Fatal(err)
	}
	if value, ok := tree["vm-data/understudy/in"]; !ok || value != "" {
		t.Error("a directory is no key with an empty value")
	}
	for key := range tree {
		if strings.HasPrefix(key, "device/") || strings.Contains(key, "/.") {
			t.Errorf("the tree shows %s", key)
		}
	}
	for file, want := range map[string]string{"vm": "/vm/11111111-2222-4333-8444-555555555555", "unique-domain-id": "boot-1"} {
		if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
}

func disk(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, make([]byte, 4096), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPlugAndUnplug(t *testing.T) {
	guest, _ := start(t, "")
	path := disk(t)
	if err := guest.Plug(t.Context(), xapisim.Disk{UserDevice: "4", Path: path}); err != nil {
		t.Fatal(err)
	}
	if err := guest.Plug(t.Context(), xapisim.Disk{UserDevice: "4", Path: path}); err == nil {
		t.Error("a device was plugged twice")
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		content, err := os.ReadFile(path)
		if err == nil && strings.HasPrefix(string(content), "device 4") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the guest has not written to its disk")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := guest.Unplug(ctx, "4"); err != nil {
		t.Fatal(err)
	}
	if err := guest.Unplug(ctx, "4"); err == nil {
		t.Error("a device was unplugged twice")
	}
	if err := guest.Plug(t.Context(), xapisim.Disk{UserDevice: "4", Path: path, ReadOnly: true}); err != nil {
		t.Error(err)
	}
}

func TestUnplugWaitsForOpenFiles(t *testing.T) {
	guest, _ := start(t, "hold")
	path := disk(t)
	if err := guest.Plug(t.Context(), xapisim.Disk{UserDevice: "5", Path: path}); err != nil {
		t.Fatal(err)
	}
	for content := []byte{}; !strings.HasPrefix(string(content), "device 5"); time.Sleep(10 * time.Millisecond) {
		content, _ = os.ReadFile(path)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := guest.Unplug(ctx, "5"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a disk that is held open was let go: %v", err)
	}
	if err := guest.Kill(); err != nil {
		t.Fatal(err)
	}
	<-guest.Done()
	if err := guest.Unplug(t.Context(), "5"); err != nil {
		t.Errorf("a dead guest still holds its disk: %v", err)
	}
}

func TestShutdown(t *testing.T) {
	guest, _ := start(t, "")
	await(t, guest, "control/feature-shutdown")
	if err := guest.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-guest.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the guest runs on")
	}
	if got := await(t, guest, "vm-data/understudy/out/cause"); got != "shutdown requested" {
		t.Errorf("cause %q", got)
	}
}

func TestShutdownOfADeafGuest(t *testing.T) {
	guest, _ := start(t, "deaf")
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	if err := guest.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("acknowledged: %v", err)
	}
}

func TestPause(t *testing.T) {
	guest, _ := start(t, "")
	await(t, guest, "control/feature-shutdown")
	if err := guest.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	if err := guest.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a paused guest acknowledged: %v", err)
	}
	if err := guest.Unpause(); err != nil {
		t.Fatal(err)
	}
	if err := guest.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	<-guest.Done()
}

func TestSetDataReplacesTheTree(t *testing.T) {
	guest, _ := start(t, "")
	await(t, guest, "vm-data/understudy/out/identity")
	if err := guest.SetData(map[string]string{"vm-data/live": "1"}); err != nil {
		t.Fatal(err)
	}
	tree, err := guest.Tree()
	if err != nil || tree["vm-data/live"] != "1" || tree["vm-data/understudy/out/identity"] != "" {
		t.Errorf("%v, %v", tree, err)
	}
}

func TestStartRefuses(t *testing.T) {
	start := func(program string, data map[string]string) error {
		guest, err := worlds.NewProcess(program, t.TempDir()).Start(t.Context(), xapisim.Machine{UUID: "u", Data: data})
		if err == nil {
			_ = guest.Kill()
			<-guest.Done()
		}
		return err
	}
	if err := start("/nonexistent/abd", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing program: %v", err)
	}
	for _, key := range []string{"vm-data/../../x", "other/x", "vm-data//x", "vm-data/x y", "vm-data/"} {
		if err := start(os.Args[0], map[string]string{key: "1"}); err == nil {
			t.Errorf("the key %q was taken", key)
		}
	}
	if err := start(os.Args[0], map[string]string{"vm-data/x": strings.Repeat("x", 5000)}); err == nil {
		t.Error("a value of 5000 bytes was taken")
	}
}
