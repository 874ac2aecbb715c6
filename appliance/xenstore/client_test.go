package xenstore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/appliance/xenstore"
	"github.com/understudy-dr/understudy/appliance/xenstore/xenstoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within bounds what must happen soon.
const within = 10 * time.Second

func start(t *testing.T) (*xenstore.Client, *xenstoretest.Store) {
	t.Helper()
	store := xenstoretest.New(t)
	client := xenstore.New(store.Connect(), xenstore.Options{})
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client, store
}

func TestReadAndWrite(t *testing.T) {
	client, store := start(t)
	store.Write("vm", "/vm/1")
	for _, path := range []string{"vm", xenstoretest.Domain + "/vm"} {
		if got, err := client.Read(t.Context(), path); err != nil || got != "/vm/1" {
			t.Errorf("%s is %q, %v", path, got, err)
		}
	}
	for _, value := range []string{"1", "", "two\nlines", "ünï", strings.Repeat("x", 2048)} {
		if err := client.Write(t.Context(), "data/a/b", value); err != nil {
			t.Fatal(err)
		}
		here, err := client.Read(t.Context(), "data/a/b")
		there, ok := store.Read("data/a/b")
		if err != nil || !ok || here != value || there != value {
			t.Errorf("wrote %.20q, the guest reads %.20q, %v, the host %.20q, %v", value, here, err, there, ok)
		}
	}
	if got, err := client.Read(t.Context(), "data/a"); err != nil || got != "" {
		t.Errorf("the node above is %q, %v, want an empty one", got, err)
	}
}

func TestMkdirAndRm(t *testing.T) {
	client, store := start(t)
	if err := client.Write(t.Context(), "data/a", "1"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"data/a", "data/a/b/c"} {
		if err := client.Mkdir(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := client.Read(t.Context(), "data/a"); err != nil || got != "1" {
		t.Errorf("a node that was there is %q, %v after Mkdir", got, err)
	}
	for range 2 { // the second time it is not there, which is no error
		if err := client.Rm(t.Context(), "data/a"); err != nil {
			t.Fatal(err)
		}
		if _, ok := store.Read("data/a/b/c"); ok {
			t.Error("what was below a removed node is there")
		}
	}
	if err := client.Rm(t.Context(), "data/a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Rm without a parent: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	client, store := start(t)
	store.SetQuota(xenstoretest.Quota{Nodes: 10, Value: 8, Watches: 0})
	read := func(path string) error { _, err := client.Read(t.Context(), path); return err }
	write := func(path, value string) error { return client.Write(t.Context(), path, value) }
	if err := write("data/first", "1"); err != nil {
		t.Fatal(err)
	}
	_, watch := client.Watch(t.Context(), "data")
	_, directory := client.Directory(t.Context(), "missing")
	for name, test := range map[string]struct {
		err, want error
		text      string
	}{
		"missing":           {read("vm-data/missing"), fs.ErrNotExist, "read vm-data/missing: ENOENT"},
		"missing directory": {directory, fs.ErrNotExist, "directory missing: ENOENT"},
		"the host's":        {write("name", "1"), fs.ErrPermission, "write name: EACCES"},
		"another domain":    {read("/local/domain/8/vm"), fs.ErrPermission, "/local/domain/8/vm"},
		"too many nodes":    {write("data/second", "1"), xenstore.ErrQuota, "write data/second: EQUOTA"},
		"too large":         {write("data/first", "123456789"), xenstore.ErrQuota, "below 1 KiB"},
		"larger than wire":  {write("data/first", strings.Repeat("x", 4096)), xenstore.ErrQuota, "more than 4096"},
		"watches":           {watch, xenstore.ErrQuota, "watch data: E2BIG"},
		"empty path":        {read(""), fs.ErrInvalid, "empty"},
		"foreign character": {read("data/a b"), fs.ErrInvalid, "ASCII"},
		"NUL":               {write("data/a\x00b", "1"), fs.ErrInvalid, "ASCII"},
		"broken UTF-8":      {read("data/\xff"), fs.ErrInvalid, "ASCII"},
		"slash at the end":  {read("data/"), fs.ErrInvalid, "slash"},
		"empty part":        {read("data//a"), fs.ErrInvalid, "empty parts"},
		"long":              {read(strings.Repeat("a", 2049)), fs.ErrInvalid, "more than 2048"},
		"long and absolute": {read("/" + strings.Repeat("a", 3072)), fs.ErrInvalid, "more than 3072"},
	} {
		if !errors.Is(test.err, test.want) || !strings.Contains(test.err.Error(), test.text) {
			t.Errorf("%s: error %q, want %v and %q", name, test.err, test.want, test.text)
		}
	}
	if err := write("data/first", "12345678"); err != nil {
		t.Errorf("after refusals: %v", err)
	}
}

// Directories of any size, also those that need several answers.
func TestDirectory(t *testing.T) {
	client, store := start(t)
	rapid.Check(t, func(rt *rapid.T) {
		store.Remove("data/list")
		store.Write("data/list", "")
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-zA-Z0-9_@-]{1,60}`), 0, 250, rapid.ID).Draw(rt, "names")
		for _, name := range names {
			store.Write("data/list/"+name, "")
			store.Write("data/list/"+name+"/below", "")
		}
		slices.Sort(names)
		got, err := client.Directory(t.Context(), "data/list")
		if err != nil || !slices.Equal(got, names) {
			rt.Errorf("directory is %d %q, %v, want %d %q", len(got), got, err, len(names), names)
		}
	})
}

// largeDirectory fills data with more names than one answer holds.
func largeDirectory(store *xenstoretest.Store, n int) (names []string) {
	for i := range n {
		name := fmt.Sprintf("%04d-%s", i, strings.Repeat("x", 200))
		store.Write("data/"+name, "")
		names = append(names, name)
	}
	return names
}

// A list that changes between its parts is read again.
func TestDirectoryChanges(t *testing.T) {
	client, store := start(t)
	names := largeDirectory(store, 50)
	parts, changes := 0, 3
	changing := make(chan struct{}, 100)
	store.Intercept(func(request xenstore.Message, answer []byte) []byte {
		if request.Type == xenstore.TypeDirectoryPart {
			if parts++; parts%2 == 1 && changes > 0 {
				changes--
				// The generation is the payload's beginning.
				answer[xenstore.HeaderSize] = byte('A' + changes)
				changing <- struct{}{}
			}
		}
		return answer
	})
	got, err := client.Directory(t.Context(), "data")
	if err != nil || !slices.Equal(got, names) {
		t.Errorf("directory has %d names, %v, want %d", len(got), err, len(names))
	}
	if len(changing) != 3 {
		t.Errorf("it changed %d times, want 3", len(changing))
	}
}

func TestDirectoryNeverStill(t *testing.T) {
	client, store := start(t)
	largeDirectory(store, 50)
	parts := 0
	store.Intercept(func(request xenstore.Message, answer []byte) []byte {
		if request.Type == xenstore.TypeDirectoryPart {
			parts++
			answer[xenstore.HeaderSize] = byte('A' + parts%26)
		}
		return answer
	})
	if _, err := client.Directory(t.Context(), "data"); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("error is %v, want one that tells of changes", err)
	}
}

func TestDirectoryIsBounded(t *testing.T) {
	client, store := start(t)
	largeDirectory(store, 400)
	if _, err := client.Directory(t.Context(), "data"); !errors.Is(err, xenstore.ErrQuota) {
		t.Errorf("error is %v, want ErrQuota", err)
	}
}

// Many callers never have two requests in flight, which the store watches, and each gets its own answer.
func TestConcurrentCallers(t *testing.T) {
	client, store := start(t)
	watch, err := client.Watch(t.Context(), "data")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for caller := range 16 {
		group.Go(func() {
			path := fmt.Sprintf("data/%d", caller)
			for i := range 50 {
				value := fmt.Sprintf("%d.%d", caller, i)
				if err := client.Write(t.Context(), path, value); err != nil {
					t.Error(err)
					return
				}
				if got, err := client.Read(t.Context(), path); err != nil || got != value {
					t.Errorf("%s is %q, %v, want %q", path, got, err, value)
					return
				}
				store.Write("data/host", value)
			}
		})
	}
	group.Wait()
	expect(t, watch)
}

func TestCancel(t *testing.T) {
	client, store := start(t)
	store.Write("vm", "first")
	store.Write("name", "second")
	release := store.Hold()
	cause := errors.New("enough")
	for _, path := range []string{"vm", "name"} { // one in flight, one that waits for it
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(20*time.Millisecond, func() { cancel(cause) })
		began := time.Now()
		if _, err := client.Read(ctx, path); !errors.Is(err, cause) {
			t.Errorf("read %s: %v, want the context's cause", path, err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("cancelling took %v", took)
		}
	}
	release()
	if got, err := client.Read(t.Context(), "name"); err != nil || got != "second" {
		t.Errorf("name is %q, %v: the answer to an abandoned request went astray", got, err)
	}
}

func TestNoAnswer(t *testing.T) {
	store := xenstoretest.New(t)
	client := xenstore.New(store.Connect(), xenstore.Options{AnswerTimeout: 50 * time.Millisecond})
	release := store.Hold()
	if _, err := client.Read(t.Context(), "vm"); !errors.Is(err, xenstore.ErrNoAnswer) {
		t.Errorf("error is %v, want ErrNoAnswer", err)
	}
	release()
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}

func TestClose(t *testing.T) {
	client, store := start(t)
	store.Hold()
	failed := make(chan error, 1)
	go func() { _, err := client.Read(t.Context(), "vm"); failed <- err }()
	time.Sleep(20 * time.Millisecond)
	if err := client.Err(); err != nil {
		t.Errorf("before Close: %v", err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if err := <-failed; !errors.Is(err, xenstore.ErrClosed) {
		t.Errorf("the request in flight: %v, want ErrClosed", err)
	}
	if _, err := client.Read(t.Context(), "vm"); !errors.Is(err, xenstore.ErrClosed) || !errors.Is(client.Err(), xenstore.ErrClosed) {
		t.Errorf("after Close: %v, %v, want ErrClosed", err, client.Err())
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "missing"), "/dev/zero"} {
		if client, err := xenstore.Open(path, xenstore.Options{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("Open(%s): %v, %v", path, client, err)
		}
	}
}
