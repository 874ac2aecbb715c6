package statetest_test

import (
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/state/statetest"
)

// TestOpen has two directories that know nothing of each other, one of them opened again.
func TestOpen(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for i, dir := range []string{a, a, b} {
		store, err := statetest.Open(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		pools, err := store.Pools(t.Context())
		if err != nil || len(pools) != i%2 {
			t.Errorf("store %d has %d pools, %v", i, len(pools), err)
		}
		if i == 0 {
			err := store.AddPool(t.Context(), state.Pool{UUID: "u", Name: "a", Addresses: []string{"a.test"}, Password: "secret", Fingerprints: []string{"00"}})
			if err != nil {
				t.Error(err)
			}
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}
