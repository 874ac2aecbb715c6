package state_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/understudy-dr/understudy/orchestrator/state"
)

func variables(values map[string]string) func(string) string {
	return func(name string) string { return values[name] }
}

// writeKey writes a fresh identity and returns its text.
func writeKey(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, identity.String()+"\n", mode)
}

func writeFile(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func TestKeyFileIsChosen(t *testing.T) {
	dirs := newFolders(t)
	named, credentials := filepath.Join(filepath.Dir(dirs.state), "named"), t.TempDir()
	environment := map[string]string{"CREDENTIALS_DIRECTORY": credentials}

	// A credentials directory without our credential is that of another one: the default path is used, and made.
	if _, err := state.LoadOrCreateSecrets(dirs.state, dirs.key, variables(environment)); err != nil {
		t.Fatal(err)
	}
	if !exists(t, dirs.key) {
		t.Error("no key was made at the default path")
	}

	// systemd looks after its credentials itself: their mode may be wider.
	writeKey(t, filepath.Join(credentials, "understudy-key"), 0o644)
	secrets, err := state.LoadOrCreateSecrets(dirs.state, dirs.key, variables(environment))
	if err != nil {
		t.Fatal(err)
	}
	store, err := state.Open(t.Context(), dirs.state, secrets)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	plain, err := state.LoadOrCreateSecrets(dirs.state, dirs.key, noVariables)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := state.Open(t.Context(), dirs.state, plain); !errors.Is(err, state.ErrWrongKey) {
		t.Errorf("the credential was not the one in use: %v", err)
	}

	// The variable wins; a first start makes its file too.
	fresh := newFolders(t)
	environment["UNDERSTUDY_KEY_FILE"] = named
	if _, err := state.LoadOrCreateSecrets(fresh.state, fresh.key, variables(environment)); err != nil {
		t.Fatal(err)
	}
	if !exists(t, named) || exists(t, fresh.key) {
		t.Error("UNDERSTUDY_KEY_FILE was not used")
	}
}

func TestKeyFileIsRefused(t *testing.T) {
	cases := map[string]struct {
		prepare func(t *testing.T, dirs folders) (path string)
		want    string
	}{
		"inside": {func(t *testing.T, dirs folders) string {
			return filepath.Join(dirs.state, "key")
		}, "inside the state directory"},
		"inside by a link": {func(t *testing.T, dirs folders) string {
			writeKey(t, filepath.Join(dirs.state, "key"), 0o600)
			link := filepath.Join(filepath.Dir(dirs.state), "link")
			if err := os.Symlink(filepath.Join(dirs.state, "key"), link); err != nil {
				t.Fatal(err)
			}
			return link
		}, "inside the state directory"},
		"readable by others": {func(t *testing.T, dirs folders) string {
			writeKey(t, dirs.key, 0o640)
			return dirs.key
		}, "chmod 600"},
		"garbage": {func(t *testing.T, dirs folders) string {
			writeFile(t, dirs.key, "no key\n", 0o600)
			return dirs.key
		}, "AGE-SECRET-KEY-1"},
		"empty": {func(t *testing.T, dirs folders) string {
			writeFile(t, dirs.key, "", 0o600)
			return dirs.key
		}, "AGE-SECRET-KEY-1"},
		"large": {func(t *testing.T, dirs folders) string {
			writeFile(t, dirs.key, strings.Repeat("#\n", 64<<10), 0o600)
			return dirs.key
		}, "no key file"},
		"a directory": {func(t *testing.T, dirs folders) string {
			if err := os.MkdirAll(dirs.key, 0o700); err != nil {
				t.Fatal(err)
			}
			return dirs.key
		}, "no key file"},
		"lost": {func(t *testing.T, dirs folders) string {
			dirs.open(t)
			if err := os.Remove(dirs.key); err != nil {
				t.Fatal(err)
			}
			return dirs.key
		}, "is missing"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dirs := newFolders(t)
			path := c.prepare(t, dirs)
			_, err := state.LoadOrCreateSecrets(dirs.state, path, noVariables)
			if !errors.Is(err, state.ErrKeyFile) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want ErrKeyFile that says %q", err, c.want)
			}
		})
	}
}

func TestOpenRefusesAKeyInside(t *testing.T) {
	dirs := newFolders(t)
	secrets, err := state.LoadOrCreateSecrets(dirs.state, dirs.key, noVariables)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := state.Open(t.Context(), filepath.Dir(dirs.key), secrets); !errors.Is(err, state.ErrKeyFile) {
		t.Errorf("error %v, want ErrKeyFile", err)
	}
}
