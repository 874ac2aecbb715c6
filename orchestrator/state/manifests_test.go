package state_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// compose composes the manifest of a disk of these changes over base.
func compose(t *testing.T, store *state.Store, replica string, disk int, generation manifest.Generation, base *state.View,
	changes []manifest.Record, g manifest.Geometry,
) state.Manifest {
	t.Helper()
	m, err := store.ComposeManifest(t.Context(), state.Composition{
		Replica: replica, Disk: fmt.Sprint(disk), Base: base, Changes: manifest.Sorted(changes),
		Header: manifest.Header{KeyID: store.Installation().DigestKey.ID(), Geometry: g, Generation: generation},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// commit makes a one-disk replica hold c by a run that changed these extents: over the current manifest, or a whole one
// when all changed.
func commit(t *testing.T, store *state.Store, replica string, c content, changed ...int) manifest.Generation {
	t.Helper()
	generation := manifest.NewGeneration()
	if err := store.SetDirty(t.Context(), replica, generation); err != nil {
		t.Fatal(err)
	}
	var base *state.View
	key := store.Installation().DigestKey
	records := c.records(key)
	if len(changed) > 0 {
		var err error
		if base, err = store.CurrentView(t.Context(), replica, "0"); err != nil {
			t.Fatal(err)
		}
		defer base.Close()
		records = nil
		for _, i := range changed {
			records = append(records, c.record(key, i))
		}
	}
	m := compose(t, store, replica, 0, generation, base, records, c.geometry())
	err := store.SetClean(t.Context(), replica, state.Commit{Generation: generation, PoolTime: poolTime, Manifests: []state.Manifest{m}})
	if err != nil {
		t.Fatal(err)
	}
	return generation
}

func rootAt(t *testing.T, store *state.Store, replica string, generation manifest.Generation) manifest.Digest {
	t.Helper()
	view, err := store.ViewAt(t.Context(), replica, "0", generation)
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	if view.Header().Generation != generation {
		t.Errorf("generation %s, asked for %s", view.Header().Generation, generation)
	}
	return view.Root()
}

func filesOf(t *testing.T, dirs folders, replica string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dirs.state, "manifests", replica))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestManifestChain(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	ctx := t.Context()
	addPools(t, store)
	key := store.Installation().DigestKey
	contents := []content{{1, 2, 3}, {1, 9, 3}, {1, 9, 8}, {7, 9, 8}}
	changed := [][]int{nil, {1}, {2}, {0}}
	replica, _ := addReplica(t, store, contents[0].geometry().Size)
	if _, err := store.CurrentView(ctx, replica.ID, "0"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("a manifest at first: %v, want ErrNotFound", err)
	}
	var generations []manifest.Generation
	for i, c := range contents {
		generations = append(generations, commit(t, store, replica.ID, c, changed[i]...))
	}
	check := func(when string, from int) {
		t.Helper()
		for i, g := range generations {
			if i < from {
				if _, err := store.ViewAt(ctx, replica.ID, "0", g); !errors.Is(err, state.ErrNotFound) {
					t.Errorf("%s: generation %d: %v, want ErrNotFound", when, i, err)
				}
			} else if got, want := rootAt(t, store, replica.ID, g), contents[i].root(t, key); got != want {
				t.Errorf("%s: generation %d has root %s, want %s", when, i, got, want)
			}
		}
		if files := filesOf(t, dirs, replica.ID); len(files) != len(generations)-from {
			t.Errorf("%s: files %v", when, files)
		}
	}
	check("chain", 0)
	if err := store.PruneManifests(ctx, replica.ID, "0", 9); err != nil {
		t.Fatal(err)
	}
	check("nothing to prune", 0)
	if err := store.PruneManifests(ctx, replica.ID, "0", 2); err != nil {
		t.Fatal(err)
	}
	check("pruned", 2)

	// A whole manifest in the middle: what lies before it stays readable, and pruning down to it copies nothing.
	contents = append(contents, content{4, 4, 4}, content{4, 5, 4})
	generations = append(generations, commit(t, store, replica.ID, contents[4]), commit(t, store, replica.ID, contents[5], 1))
	check("rescanned", 2)
	if err := store.PruneManifests(ctx, replica.ID, "0", 2); err != nil {
		t.Fatal(err)
	}
	check("pruned to a whole one", 4)
	if err := store.PruneManifests(ctx, replica.ID, "0", 0); err == nil {
		t.Error("every manifest was pruned")
	}
}

func TestManifestDamage(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	addPools(t, store)
	replica, _ := addReplica(t, store, 2*manifest.ExtentSize)
	commit(t, store, replica.ID, content{1, 2})
	commit(t, store, replica.ID, content{1, 3}, 1)
	for _, name := range filesOf(t, dirs, replica.ID) {
		path := filepath.Join(dirs.state, "manifests", replica.ID, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		flipped := slices.Clone(whole)
		flipped[20] ^= 1
		for what, damaged := range map[string][]byte{"flipped": flipped, "short": whole[:len(whole)-1], "empty": nil} {
			writeFile(t, path, string(damaged), 0o600)
			if _, err := store.CurrentView(t.Context(), replica.ID, "0"); !errors.Is(err, manifest.ErrCorrupt) {
				t.Errorf("%s %s: %v, want ErrCorrupt", what, name, err)
			}
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if _, err := store.CurrentView(t.Context(), replica.ID, "0"); !errors.Is(err, manifest.ErrCorrupt) {
			t.Errorf("lost %s: %v, want ErrCorrupt", name, err)
		}
		writeFile(t, path, string(whole), 0o600)
	}
	view, err := store.CurrentView(t.Context(), replica.ID, "0")
	if err != nil {
		t.Fatal(err)
	}
	view.Close()
}

func TestUncommittedManifestsAreSwept(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	addPools(t, store)
	key := store.Installation().DigestKey
	c := content{1}
	replica, _ := addReplica(t, store, c.geometry().Size)
	commit(t, store, replica.ID, c)
	committed := filesOf(t, dirs, replica.ID)
	if err := store.SetDirty(t.Context(), replica.ID, manifest.NewGeneration()); err != nil {
		t.Fatal(err)
	}
	appendTo(t, reopen(t, store, replica.ID), 1, c.record(key, 0))
	stray := compose(t, store, replica.ID, 0, manifest.NewGeneration(), nil, c.records(key), c.geometry())
	temporary := filepath.Join(dirs.state, "manifests", replica.ID, ".0.x.tmp")
	neighbour := filepath.Join(dirs.state, "manifests", replica.ID, "10.x.manifest")
	writeFile(t, temporary, "", 0o600)
	writeFile(t, neighbour, "", 0o600)
	last := compose(t, store, replica.ID, 0, manifest.NewGeneration(), nil, c.records(key), c.geometry())
	files := filesOf(t, dirs, replica.ID)
	want := append(slices.Clone(committed), last.File, "0.journal", "10.x.manifest")
	slices.Sort(want)
	if !slices.Equal(files, want) {
		t.Errorf("files %v, want %v without %s", files, want, stray.File)
	}
}

func TestComposeRefuses(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	ctx := t.Context()
	addPools(t, store)
	key := store.Installation().DigestKey
	c := content{1, 2}
	replica, _ := addReplica(t, store, c.geometry().Size)
	commit(t, store, replica.ID, c)
	old, err := store.CurrentView(ctx, replica.ID, "0")
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	commit(t, store, replica.ID, content{1, 3}, 1)
	before := filesOf(t, dirs, replica.ID)
	good := state.Composition{
		Replica: replica.ID, Disk: "0", Changes: manifest.Sorted(c.records(key)),
		Header: manifest.Header{Geometry: c.geometry(), Generation: manifest.NewGeneration()},
	}
	for name, c := range map[string]struct {
		spoil func(*state.Composition)
		want  error
	}{
		"a base that is not the newest": {func(c *state.Composition) { c.Base = old }, manifest.ErrBase},
		"a missing extent":              {func(c *state.Composition) { c.Changes = nil }, manifest.ErrMissing},
		"another key":                   {func(c *state.Composition) { c.Header.KeyID = manifest.KeyID{1} }, manifest.ErrKey},
		"an unknown disk":               {func(c *state.Composition) { c.Disk = "5" }, state.ErrNotFound},
	} {
		spoiled := good
		c.spoil(&spoiled)
		if _, err := store.ComposeManifest(ctx, spoiled); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	good.Changes = func(yield func(manifest.Record, error) bool) {
		cancel()
		manifest.Sorted(c.records(key))(yield)
	}
	if _, err := store.ComposeManifest(cancelled, good); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if after := filesOf(t, dirs, replica.ID); !slices.Equal(before, after) {
		t.Errorf("refused compositions left files: %v, before %v", after, before)
	}
}

// However runs and prunings follow each other, any generation that is listed can be viewed and has its own root.
func TestChainsByChance(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	addPools(t, store)
	key := store.Installation().DigestKey
	replica, _ := addReplica(t, store, 3*manifest.ExtentSize)
	want := make(map[manifest.Generation]manifest.Digest)
	now := content{0, 0, 0}
	generation := commit(t, store, replica.ID, now)
	want[generation] = now.root(t, key)
	rapid.Check(t, func(rt *rapid.T) {
		switch rapid.IntRange(0, 3).Draw(rt, "what") {
		case 0:
			keep := rapid.IntRange(1, 4).Draw(rt, "keep")
			if err := store.PruneManifests(t.Context(), replica.ID, "0", keep); err != nil {
				rt.Fatal(err)
			}
		case 1:
			now = rapid.SliceOfN(rapid.Byte(), 3, 3).Draw(rt, "content")
			want[commit(t, store, replica.ID, now)] = now.root(t, key)
		default:
			extent := rapid.IntRange(0, 2).Draw(rt, "extent")
			now = slices.Clone(now)
			now[extent] = rapid.Byte().Draw(rt, "byte")
			want[commit(t, store, replica.ID, now, extent)] = now.root(t, key)
		}
		manifests, err := store.Manifests(t.Context(), replica.ID, "0")
		if err != nil {
			rt.Fatal(err)
		}
		m := rapid.SampledFrom(manifests).Draw(rt, "viewed")
		if root := rootAt(t, store, replica.ID, m.Generation); root != want[m.Generation] {
			rt.Fatalf("generation %s has root %s, want %s", m.Generation, root, want[m.Generation])
		}
		if newest := manifests[len(manifests)-1]; newest.Root != now.root(t, key) {
			rt.Fatal("the newest manifest is not of the newest content")
		}
	})
}
