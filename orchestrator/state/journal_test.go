package state_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// journal is what a test reads of a disk's journal.
type journal struct {
	Watermarks []uint32 // by segment
	Records    []manifest.Record
}

func readJournal(t *testing.T, store *state.Store, replica, disk string) (j journal) {
	t.Helper()
	view, err := store.ReadJournal(t.Context(), replica, disk)
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	for _, s := range view.Segments {
		j.Watermarks = append(j.Watermarks, s.Watermark)
	}
	for r, err := range view.Records() {
		if err != nil {
			t.Fatal(err)
		}
		j.Records = append(j.Records, r)
	}
	return j
}

// dirty begins a generation and opens the journal of disk 0.
func dirty(t *testing.T, store *state.Store, replica string) *state.Journal {
	t.Helper()
	if err := store.SetDirty(t.Context(), replica, manifest.NewGeneration()); err != nil {
		t.Fatal(err)
	}
	return reopen(t, store, replica)
}

func reopen(t *testing.T, store *state.Store, replica string) *state.Journal {
	t.Helper()
	j, err := store.OpenJournal(t.Context(), replica, "0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func appendTo(t *testing.T, j *state.Journal, watermark uint32, records ...manifest.Record) {
	t.Helper()
	if err := j.Append(t.Context(), watermark, records...); err != nil {
		t.Fatal(err)
	}
}

func TestJournalOverSeveralRuns(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	addPools(t, store)
	key := store.Installation().DigestKey
	old, changed := content{1, 2, 3, 4}, content{5, 6, 7, 8}
	replica, run := addReplica(t, store, old.geometry().Size)
	if _, err := store.OpenJournal(t.Context(), replica.ID, "0"); err == nil {
		t.Error("the journal of a disk that is not dirty was opened")
	}
	if j := readJournal(t, store, replica.ID, "0"); len(j.Watermarks) != 0 || len(j.Records) != 0 {
		t.Errorf("a journal at first: %+v", j)
	}

	first := dirty(t, store, replica.ID)
	appendTo(t, first, 2, old.record(key, 0), old.record(key, 1))
	appendTo(t, first, 1) // a watermark never goes back
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := first.Append(t.Context(), 3); !errors.Is(err, os.ErrClosed) {
		t.Errorf("append after Close: %v, want ErrClosed", err)
	}
	endRun(t, store, run)

	beginRun(t, store, replica.ID)
	second := dirty(t, store, replica.ID)
	appendTo(t, second, 1, changed.record(key, 3), changed.record(key, 0))
	want := journal{Watermarks: []uint32{2, 1}, Records: []manifest.Record{changed.record(key, 0), old.record(key, 1), changed.record(key, 3)}}
	if diff := cmp.Diff(want, readJournal(t, store, replica.ID, "0")); diff != "" {
		t.Errorf("after two runs (-want +got):\n%s", diff)
	}

	// The run is resumed: the same generation goes on where it stood.
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	third := reopen(t, store, replica.ID)
	appendTo(t, third, 4, changed.record(key, 2))
	want.Watermarks[1] = 4
	want.Records = slices.Insert(want.Records, 2, changed.record(key, 2))
	if diff := cmp.Diff(want, readJournal(t, store, replica.ID, "0")); diff != "" {
		t.Errorf("after the resume (-want +got):\n%s", diff)
	}
}

func TestJournalRefusesWhatDoesNotFit(t *testing.T) {
	store := newFolders(t).open(t)
	addPools(t, store)
	key := store.Installation().DigestKey
	c := content{1, 2}
	replica, _ := addReplica(t, store, c.geometry().Size)
	j := dirty(t, store, replica.ID)
	short := c.record(key, 0)
	short.Blocks = short.Blocks[:5]
	beyond := c.record(key, 0)
	beyond.Extent = 2
	for name, r := range map[string]manifest.Record{"too few blocks": short, "beyond the disk": beyond} {
		if err := j.Append(t.Context(), 0, c.record(key, 1), r); err == nil {
			t.Errorf("a record was taken: %s", name)
		}
	}
	if err := j.Append(t.Context(), 3); err == nil {
		t.Error("a watermark beyond the disk was taken")
	}
	appendTo(t, j, 2, c.record(key, 1)) // refusals leave it usable
	if got := readJournal(t, store, replica.ID, "0"); len(got.Records) != 1 || got.Watermarks[0] != 2 {
		t.Errorf("journal %+v", got)
	}
}

func TestJournalTailAndDamage(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	addPools(t, store)
	key := store.Installation().DigestKey
	c := content{1, 2, 3}
	replica, _ := addReplica(t, store, c.geometry().Size)
	j := dirty(t, store, replica.ID)
	appendTo(t, j, 1, c.record(key, 0))
	path := filepath.Join(dirs.state, "manifests", replica.ID, "0.journal")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}

	// A process died after it wrote a record and before it said so.
	torn := append(slices.Clone(whole), manifest.AppendRecord(nil, c.record(key, 2))[:100]...)
	writeFile(t, path, string(torn), 0o600)
	want := journal{Watermarks: []uint32{1}, Records: []manifest.Record{c.record(key, 0)}}
	if diff := cmp.Diff(want, readJournal(t, store, replica.ID, "0")); diff != "" {
		t.Errorf("with a torn tail (-want +got):\n%s", diff)
	}
	j = reopen(t, store, replica.ID)
	if cut, err := os.ReadFile(path); err != nil || !slices.Equal(cut, whole) {
		t.Errorf("the torn tail was not cut off: %d bytes of %d, %v", len(cut), len(whole), err)
	}
	appendTo(t, j, 2, c.record(key, 1))
	want.Watermarks[0], want.Records = 2, append(want.Records, c.record(key, 1))
	if diff := cmp.Diff(want, readJournal(t, store, replica.ID, "0")); diff != "" {
		t.Errorf("after the torn tail was written over (-want +got):\n%s", diff)
	}

	// What was acknowledged must be there and whole.
	flipped := slices.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	for name, damaged := range map[string]string{"short": string(whole[:len(whole)-1]), "flipped": string(flipped) + string(whole)} {
		writeFile(t, path, damaged, 0o600)
		if _, err := store.ReadJournal(t.Context(), replica.ID, "0"); !errors.Is(err, manifest.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := store.ReadJournal(t.Context(), replica.ID, "0"); !errors.Is(err, manifest.ErrCorrupt) {
		t.Errorf("lost: %v, want ErrCorrupt", err)
	}
	if _, err := store.OpenJournal(t.Context(), replica.ID, "0"); err == nil {
		t.Error("a lost journal was gone on with")
	}
}

func TestJournalOfAnotherOwner(t *testing.T) {
	store := newFolders(t).open(t)
	addPools(t, store)
	replica, run := addReplica(t, store, manifest.ExtentSize)
	j := dirty(t, store, replica.ID)
	endRun(t, store, run)
	if err := j.Append(t.Context(), 1); !errors.Is(err, state.ErrNotOwner) {
		t.Errorf("append after the run's end: %v, want ErrNotOwner", err)
	}
}

// child journals extent after extent of disk 0 of a replica, over and over, says so after each, and never ends by itself.
func child(ctx context.Context) error {
	dir := os.Getenv(childVariable)
	secrets, err := state.LoadOrCreateSecrets(filepath.Join(dir, "state"), filepath.Join(dir, "keys", "understudy-key"), noVariables)
	if err != nil {
		return err
	}
	store, err := state.Open(ctx, filepath.Join(dir, "state"), secrets)
	if err != nil {
		return err
	}
	replica, err := store.FindReplica(ctx, "pool-a", "vm", "pool-b", "sr")
	if err != nil {
		return err
	}
	run, err := store.BeginRun(ctx, replica.ID, state.RunReplicate, report.Run{Direction: report.Push, Trust: report.TrustVerify})
	if err != nil {
		return err
	}
	if err := store.SetDirty(ctx, replica.ID, manifest.NewGeneration()); err != nil {
		return err
	}
	j, err := store.OpenJournal(ctx, replica.ID, "0")
	if err != nil {
		return err
	}
	fmt.Println(run.Report.ID)
	extents := manifest.Geometry{Size: replica.Disks[0].LogicalSize}.Extents()
	for n := uint32(0); ; n++ {
		c := make(content, extents)
		c[n%extents] = byte(n / extents)
		if err := j.Append(ctx, min(n+1, extents), c.record(store.Installation().DigestKey, int(n%extents))); err != nil {
			return err
		}
		fmt.Println(n + 1)
	}
}

func TestJournalSurvivesAKill(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	addPools(t, store)
	const extents = 200
	replica, run := addReplica(t, store, extents*manifest.ExtentSize)
	endRun(t, store, run)

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+filepath.Dir(dirs.state))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	id := lines.Text()
	if _, err := store.TakeOver(t.Context(), id); !errors.Is(err, state.ErrBusy) {
		t.Errorf("taking over from a living process: %v, want ErrBusy", err)
	}
	acknowledged := 0
	for acknowledged < 50 && lines.Scan() {
		acknowledged++
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		acknowledged++
	}
	_ = cmd.Wait() // killed, as it must be
	if acknowledged < 50 || acknowledged > extents {
		t.Fatalf("the child acknowledged %d records", acknowledged)
	}

	got := readJournal(t, store, replica.ID, "0")
	if n := len(got.Records); n < acknowledged || n > acknowledged+1 || int(got.Watermarks[0]) != n {
		t.Errorf("%d records with watermark %d after %d were acknowledged", n, got.Watermarks[0], acknowledged)
	}
	kept, err := store.Replica(t.Context(), replica.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !kept.Disks[0].State.Dirty {
		t.Errorf("the disk is %s after its run was killed", kept.Disks[0].State)
	}
	if _, err := store.OpenJournal(t.Context(), replica.ID, "0"); !errors.Is(err, state.ErrNotOwner) {
		t.Errorf("a dead owner's journal before it was taken over: %v, want ErrNotOwner", err)
	}
	taken, err := store.TakeOver(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if taken.Owner != store.Owner() || !strings.EqualFold(taken.Report.ID, id) {
		t.Errorf("took over %+v", taken)
	}
	appendTo(t, reopen(t, store, replica.ID), extents)
	if got := readJournal(t, store, replica.ID, "0"); got.Watermarks[0] != extents {
		t.Errorf("the resumed run's watermark is %d", got.Watermarks[0])
	}
}
