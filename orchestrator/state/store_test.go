package state_test

import (
	"bytes"
	"crypto/ed25519"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	_ "modernc.org/sqlite"

	"github.com/understudy-dr/understudy/orchestrator/state"
)

func TestInstallationStays(t *testing.T) {
	dirs := newFolders(t)
	first := dirs.open(t).Installation()
	second := dirs.open(t).Installation()
	if first.UUID == "" || first.UUID != second.UUID {
		t.Errorf("installation %q, then %q", first.UUID, second.UUID)
	}
	if !first.Identity().Equal(second.Identity()) || len(first.Identity()) != ed25519.PrivateKeySize {
		t.Error("the identity changed")
	}
	if !bytes.Equal(first.DigestKey.Bytes(), second.DigestKey.Bytes()) {
		t.Error("the digest key changed")
	}
	if other := newFolders(t).open(t).Installation(); other.UUID == first.UUID || other.Identity().Equal(first.Identity()) {
		t.Error("two installations share an identity")
	}
}

func TestFirstStartsAtOnce(t *testing.T) {
	dirs := newFolders(t)
	var wg sync.WaitGroup
	ids := make([]string, 4)
	for i := range ids {
		wg.Go(func() {
			secrets, err := state.LoadOrCreateSecrets(dirs.state, dirs.key, noVariables)
			if err != nil {
				t.Error(err)
				return
			}
			store, err := state.Open(t.Context(), dirs.state, secrets)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = store.Installation().UUID
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("the starts disagree: %v", ids)
		}
	}
}

func TestPermissions(t *testing.T) {
	dirs := newFolders(t)
	dirs.open(t)
	for path, want := range map[string]os.FileMode{
		dirs.state: 0o700, filepath.Join(dirs.state, "manifests"): 0o700, filepath.Join(dirs.state, "understudy.db"): 0o600,
		filepath.Dir(dirs.key): 0o700, dirs.key: 0o600,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %04o, want %04o", path, got, want)
		}
	}
}

func TestNewerSchema(t *testing.T) {
	dirs := newFolders(t)
	dirs.open(t)
	db, err := sql.Open("sqlite", filepath.Join(dirs.state, "understudy.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)`)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	secrets, err := state.LoadOrCreateSecrets(dirs.state, dirs.key, noVariables)
	if err != nil {
		t.Fatal(err)
	}
	_, err = state.Open(t.Context(), dirs.state, secrets)
	if !errors.Is(err, state.ErrNewerSchema) || !strings.Contains(err.Error(), "99") {
		t.Errorf("error %v, want ErrNewerSchema that names the version", err)
	}
}

func TestWrongKey(t *testing.T) {
	dirs, other := newFolders(t), newFolders(t)
	dirs.open(t)
	other.open(t)
	secrets, err := state.LoadOrCreateSecrets(dirs.state, other.key, noVariables)
	if err != nil {
		t.Fatal(err)
	}
	_, err = state.Open(t.Context(), dirs.state, secrets)
	if !errors.Is(err, state.ErrWrongKey) || !strings.Contains(err.Error(), other.key) {
		t.Errorf("error %v, want ErrWrongKey that names the file", err)
	}
}

func TestSecretsAreNotInTheFiles(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	addPools(t, store)
	seed, key := store.Installation().Identity().Seed(), store.Installation().DigestKey.Bytes()
	files, err := filepath.Glob(filepath.Join(dirs.state, "understudy.db*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for what, secret := range map[string][]byte{"password": []byte("secret of a"), "seed": seed, "digest key": key} {
			if bytes.Contains(content, secret) {
				t.Errorf("%s holds the %s", path, what)
			}
		}
	}
}

func TestPools(t *testing.T) {
	store := newFolders(t).open(t)
	ctx := t.Context()
	addPools(t, store)
	byName, err := store.Pool(ctx, "b")
	if err != nil {
		t.Fatal(err)
	}
	byUUID, err := store.Pool(ctx, "pool-b")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(byName, byUUID); diff != "" || byName.Password.Reveal() != "secret of b" || byName.Added.IsZero() {
		t.Errorf("pool %+v with password %q; by uuid it differs by %s", byName, byName.Password.Reveal(), diff)
	}
	pools, err := store.Pools(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(pools) != 2 || pools[0].Name != "a" || pools[1].Addresses[0] != "b.test" || pools[1].DelegateAddresses != "192.0.2.0/24" {
		t.Errorf("pools %+v", pools)
	}
	for _, same := range []state.Pool{
		{Name: "a", UUID: "pool-c", Addresses: []string{"c"}, Fingerprints: []string{"00"}},
		{Name: "c", UUID: "pool-a", Addresses: []string{"c"}, Fingerprints: []string{"00"}},
	} {
		if err := store.AddPool(ctx, same); !errors.Is(err, state.ErrExists) {
			t.Errorf("adding %s again: %v, want ErrExists", same.Name, err)
		}
	}
	if err := store.AddPool(ctx, state.Pool{Name: "d", UUID: "pool-d", Addresses: []string{"d"}}); err == nil {
		t.Error("a pool without fingerprint was taken")
	}
	addReplica(t, store)
	if err := store.RemovePool(ctx, "a"); !errors.Is(err, state.ErrInUse) {
		t.Errorf("removing the pool of a replica: %v, want ErrInUse", err)
	}
	if err := store.RemovePool(ctx, "z"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("removing an unknown pool: %v, want ErrNotFound", err)
	}
	if _, err := store.Pool(ctx, "z"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("reading an unknown pool: %v, want ErrNotFound", err)
	}
}

func TestUpdatePool(t *testing.T) {
	store := newFolders(t).open(t)
	ctx := t.Context()
	addPools(t, store)
	addReplica(t, store)
	before, err := store.Pool(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	want := state.Pool{
		UUID: before.UUID, Name: "a", Addresses: []string{"new.test", "other.test"}, Username: "admin", Password: "changed",
		Fingerprints: []string{"01"}, DelegateAddresses: "198.51.100.0/24",
	}
	if err := store.UpdatePool(ctx, want); err != nil {
		t.Fatal(err)
	}
	want.Added = before.Added
	got, err := store.Pool(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || got.Password.Reveal() != "changed" {
		t.Errorf("updated pool, password %q: %s", got.Password.Reveal(), diff)
	}
	if other, err := store.Pool(ctx, "b"); err != nil || other.Password.Reveal() != "secret of b" {
		t.Errorf("pool b was touched: %+v, %v", other, err)
	}
	want.Name = "b"
	if err := store.UpdatePool(ctx, want); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("updating pool a under the name of b: %v, want ErrNotFound", err)
	}
	if err := store.UpdatePool(ctx, state.Pool{UUID: before.UUID, Name: "a"}); err == nil {
		t.Error("a pool without address was taken")
	}
}

func TestRemovePool(t *testing.T) {
	store := newFolders(t).open(t)
	addPools(t, store)
	if err := store.RemovePool(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Pool(t.Context(), "a"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("after its removal: %v, want ErrNotFound", err)
	}
}

func TestSecretDoesNotPrint(t *testing.T) {
	pool := state.Pool{Name: "a", Password: "hunter2"}
	document, err := json.Marshal(pool)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		fmt.Sprint(pool), fmt.Sprintf("%+v", pool), fmt.Sprintf("%#v", pool), fmt.Sprintf("%v", &pool), fmt.Sprintf("%q", pool.Password), string(document),
		pool.Password.LogValue().String(),
	} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("printed: %s", text)
		}
	}
}

// A commit that returned must survive a loss of power, which no test can cause.
func TestCommitsAreSynced(t *testing.T) {
	const full = 2
	if level, err := newFolders(t).open(t).Synchronous(t.Context()); err != nil || level != full {
		t.Errorf("PRAGMA synchronous is %d, %v, want %d", level, err, full)
	}
}
