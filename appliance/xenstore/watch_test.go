package xenstore_test

import (
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance/xenstore"
	"github.com/understudy-dr/understudy/appliance/xenstore/xenstoretest"
)

func expect(t *testing.T, w *xenstore.Watch) {
	t.Helper()
	select {
	case <-w.Events():
	case <-time.After(within):
		t.Fatal("no event in time")
	}
}

func expectNone(t *testing.T, w *xenstore.Watch) {
	t.Helper()
	select {
	case <-w.Events():
		t.Error("an event though nothing changed")
	case <-time.After(50 * time.Millisecond):
	}
}

func watch(t *testing.T, client *xenstore.Client, path string) *xenstore.Watch {
	t.Helper()
	w, err := client.Watch(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, w) // the first comes at once
	expectNone(t, w)
	return w
}

func TestWatch(t *testing.T) {
	client, store := start(t)
	control, memory := watch(t, client, "control/shutdown"), watch(t, client, "memory")
	for name, change := range map[string]func(){
		"written":        func() { store.Write("control/shutdown", "poweroff") },
		"below":          func() { store.Write("control/shutdown/below", "") },
		"removed":        func() { store.Remove("control/shutdown") },
		"parent removed": func() { store.Write("control/shutdown", ""); expect(t, control); store.Remove("control") },
		"migrated":       func() { store.RefireWatches(); expect(t, memory) },
	} {
		t.Run(name, func(t *testing.T) {
			store.Write("control/shutdown", "")
			expect(t, control)
			expectNone(t, control)
			change()
			expect(t, control)
			expectNone(t, memory)
		})
	}
}

// Changes that nobody waited for are one event.
func TestWatchMerges(t *testing.T) {
	client, store := start(t)
	w := watch(t, client, "data")
	for range 100 {
		store.Write("data/a", "1")
	}
	if _, err := client.Read(t.Context(), "data/a"); err != nil { // by now the events are here
		t.Fatal(err)
	}
	expect(t, w)
	expectNone(t, w)
}

// Events arrive while a request waits for its answer.
func TestWatchDuringRequest(t *testing.T) {
	client, store := start(t)
	store.Write("vm", "1")
	w := watch(t, client, "data")
	release := store.Hold()
	read := make(chan string, 1)
	go func() {
		value, err := client.Read(t.Context(), "vm")
		if err != nil {
			t.Error(err)
		}
		read <- value
	}()
	store.Write("data/a", "1")
	expect(t, w)
	release()
	if got := <-read; got != "1" {
		t.Errorf("read %q", got)
	}
}

func TestUnwatch(t *testing.T) {
	client, store := start(t)
	gone, stays := watch(t, client, "data"), watch(t, client, "data")
	if err := gone.Unwatch(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := store.Watches(); n != 1 {
		t.Errorf("%d watches are left, want 1", n)
	}
	store.Write("data/a", "1")
	expect(t, stays)
	expectNone(t, gone)
	if err := gone.Unwatch(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unwatched twice: %v", err)
	}
}

// A watch that could not be set leaves nothing behind.
func TestWatchRefused(t *testing.T) {
	client, store := start(t)
	store.SetQuota(xenstoretest.Quota{Watches: 0})
	if w, err := client.Watch(t.Context(), "data"); !errors.Is(err, xenstore.ErrQuota) || w != nil {
		t.Errorf("Watch returns %v, %v", w, err)
	}
	if n := store.Watches(); n != 0 {
		t.Errorf("%d watches are left", n)
	}
}
