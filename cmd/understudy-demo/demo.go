package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/understudy-dr/understudy/orchestrator/cli/progress"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const vmName = "web"

// What a demonstration tells.
const (
	storyRuns     = "runs"
	storyFailback = "failback"
)

// options of a demonstration.
type options struct {
	world    world
	keep     string // folder in which the disks stay; empty: nowhere
	diskSize int64  // of the first disk, in bytes
	story    string // runs or failback
	out      io.Writer
	progress io.Writer
}

// document is demo.json. Paths are relative to its folder and empty when nothing is kept.
type document struct {
	Disks []diskDocument `json:"disks"`
	Runs  []report.Row   `json:"runs"`
}

type diskDocument struct {
	Disk    string `json:"disk"`
	Source  string `json:"source,omitempty"` // as it was at the snapshot of the last run
	Replica string `json:"replica,omitempty"`
}

// demo is a demonstration under way.
type demo struct {
	options
	guest  *guest
	a, b   *site
	store  *state.Store
	engine *replication.Engine
	work   string
	vm     xapisim.Added
	images []string // of the VM's disks, as the pool keeps them
	result document

	replicas []string // images of the replica's disks, while it does the work
}

// demonstrate does it all. The document says how far it came.
func demonstrate(ctx context.Context, o options) (_ document, err error) {
	if o.keep != "" {
		if err := os.MkdirAll(o.keep, 0o755); err != nil { // before minutes have been spent
			return document{}, err
		}
	}
	tools, err := findTools()
	if err != nil {
		return document{}, err
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return document{}, err
	}
	// A real disk, unlike many a /tmp: delegates use direct I/O.
	if err := os.MkdirAll(filepath.Join(root, "build"), 0o755); err != nil {
		return document{}, err
	}
	work, err := os.MkdirTemp(filepath.Join(root, "build"), "demo-")
	if err != nil {
		return document{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	display := progress.New(o.progress)
	defer display.Close()
	d := &demo{options: o, work: work}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.prepare(ctx, tools, root, work, display); err != nil {
		return d.result, err
	}
	if o.story == storyFailback {
		if err := commandEnvironment(work); err != nil {
			return d.result, err
		}
		return d.result, d.playFailback(ctx)
	}
	return d.result, d.play(ctx, work)
}

// prepare makes everything that is there before the first run.
func (d *demo) prepare(ctx context.Context, t tools, root, work string, display *progress.Display) (err error) {
	scratch := filepath.Join(work, "files")
	if err := os.Mkdir(scratch, 0o755); err != nil {
		return err
	}
	if err := d.world.prepare(ctx, d, root, work); err != nil {
		return err
	}
	d.say("making the disks of VM %s: %s and %s", vmName, size(d.diskSize), size(d.diskSize/4))
	if d.guest, err = newGuest(ctx, t, scratch, d.diskSize); err != nil {
		return err
	}
	images, err := d.guest.disks(ctx)
	if err != nil {
		return err
	}
	if d.store, err = openState(ctx, work); err != nil {
		return err
	}
	if d.a, err = newSite(ctx, "a", work, d.world, d.store); err != nil {
		return err
	}
	if d.b, err = newSite(ctx, "b", work, d.world, d.store); err != nil {
		return err
	}
	vm, err := d.a.AddVM(xapisim.VMConfig{
		Name: vmName, Running: true, Disks: []xapisim.DiskConfig{{From: images[0], Adopt: true}, {From: images[1], Adopt: true}},
	})
	if err != nil {
		return err
	}
	d.vm = vm
	for _, vdi := range vm.VDIs {
		d.images = append(d.images, d.a.VDIPath(vdi))
	}
	log := slog.New(slog.NewTextHandler(display, &slog.HandlerOptions{Level: slog.LevelWarn}))
	d.engine = &replication.Engine{
		Store: d.store, Log: log, Observe: display.Observe, Dial: d.world.dial(), SpawnTimeout: d.world.patience(),
	}
	return nil
}

func (d *demo) close() error {
	for _, s := range []*site{d.a, d.b} {
		if s != nil {
			s.Close()
		}
	}
	if d.store != nil {
		_ = d.store.Close() // goes away with the work folder
	}
	return d.world.close()
}

// play is the three runs, with a guest at work between them, and the proof.
func (d *demo) play(ctx context.Context, work string) error {
	first, second := d.images[0], d.images[1]
	if err := d.replicate(ctx, "1 push", report.Push, false); err != nil {
		return err
	}
	d.say("the guest adds, edits, deletes and moves files on disk 0")
	if err := d.guest.firstChange(ctx, first); err != nil {
		return err
	}
	if err := d.replicate(ctx, "2 push, trust", report.Push, true); err != nil {
		return err
	}
	d.say("the guest goes on, on both disks")
	if err := d.guest.secondChange(ctx, first, second); err != nil {
		return err
	}
	// A copy of its own: what the source held when the last run took its snapshot, for nothing writes to it meanwhile.
	kept := d.keep
	if kept == "" {
		kept = filepath.Join(work, "kept")
	}
	for i, image := range d.images {
		if err := copySparse(ctx, image, filepath.Join(kept, diskFile("a", i)), d.sizeOf(i)); err != nil {
			return err
		}
	}
	if err := d.replicate(ctx, "3 pull", report.Pull, false); err != nil {
		return err
	}
	return d.prove(ctx, kept)
}

func (d *demo) replicate(ctx context.Context, label string, direction report.Direction, trust bool) error {
	d.say("\nrun %s: VM %s of pool a to storage %s of pool b", label, vmName, storageOf("b"))
	run, err := d.engine.Replicate(ctx, replication.Request{
		Source: d.a.delegate, Target: d.b.delegate, VM: vmName, SR: storageOf("b"), Direction: direction, Trust: trust, OverwriteTarget: true,
	})
	d.result.Runs = append(d.result.Runs, report.Rows(label, run)...)
	if err != nil {
		return fmt.Errorf("run %s: %w", label, err)
	}
	for _, disk := range run.Disks {
		d.say("disk %s was compared %s: %s", disk.Disk, disk.Mode, disk.Cause)
	}
	d.say("%s in %s", run.State, run.Finished.Sub(run.Started).Round(10*time.Millisecond))
	return nil
}

// prove compares, shows and keeps what came of the runs.
func (d *demo) prove(ctx context.Context, kept string) error {
	replicas, err := d.replicaDisks(ctx)
	if err != nil {
		return err
	}
	d.say("\ncomparing the replica with the source, byte for byte")
	for i, replica := range replicas {
		disk := diskDocument{Disk: fmt.Sprint(i)}
		source := filepath.Join(kept, diskFile("a", i))
		if d.keep != "" {
			disk.Source, disk.Replica = diskFile("a", i), diskFile("b", i)
			if err := copySparse(ctx, replica, filepath.Join(kept, disk.Replica), d.sizeOf(i)); err != nil {
				return err
			}
		}
		d.result.Disks = append(d.result.Disks, disk)
		if err := compare(ctx, source, replica, d.sizeOf(i)); err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
		if err := compare(ctx, source, d.images[i], d.sizeOf(i)); err != nil {
			return fmt.Errorf("disk %d: a run changed its own source: %w", i, err)
		}
		if err := d.guest.check(ctx, replica); err != nil {
			return fmt.Errorf("disk %d: the replica's file system is not whole: %w", i, err)
		}
		d.say("disk %d: %s are equal, and its file system is whole", i, size(d.sizeOf(i)))
	}
	if err := noneLeft(ctx, d.a, d.b); err != nil {
		return err
	}
	d.say("")
	if err := report.WriteTable(d.out, d.result.Runs); err != nil {
		return err
	}
	for _, dir := range []string{"/demo", "/demo/album"} {
		listing, err := d.guest.list(ctx, replicas[0], dir)
		if err != nil {
			return err
		}
		d.say("\n%s on the replica's disk 0:\n%s", dir, listing)
	}
	return d.writeDocument()
}

// replicaDisks finds the files behind the replica's disks, in the order of the source's.
func (d *demo) replicaDisks(ctx context.Context) ([]string, error) {
	replicas, err := d.store.Replicas(ctx)
	if err != nil {
		return nil, err
	}
	if len(replicas) != 1 || len(replicas[0].Disks) != len(d.images) {
		return nil, fmt.Errorf("the state database has %d replicas, or not every disk of the one", len(replicas))
	}
	var paths []string
	for _, disk := range replicas[0].Disks {
		paths = append(paths, d.b.VDIPath(disk.TargetVDI))
	}
	return paths, nil
}

func (d *demo) writeDocument() error {
	if d.keep == "" {
		return nil
	}
	content, err := json.MarshalIndent(d.result, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(d.keep, "demo.json")
	if err := os.WriteFile(path, append(content, '\n'), 0o644); err != nil {
		return err
	}
	d.say("%s names the kept disks; cmp compares them: cmp %s %s", path,
		filepath.Join(d.keep, diskFile("a", 0)), filepath.Join(d.keep, diskFile("b", 0)))
	return nil
}

// sizeOf is the size of a disk of the VM, in bytes.
func (d *demo) sizeOf(disk int) int64 {
	if disk == 0 {
		return d.diskSize
	}
	return d.diskSize / 4
}

func diskFile(pool string, disk int) string { return filepath.Join(pool, fmt.Sprintf("%d.raw", disk)) }

// say writes a line. An output that is gone does not stop a demonstration: its exit code remains.
func (d *demo) say(format string, values ...any) { _, _ = fmt.Fprintf(d.out, format+"\n", values...) }

func size(n int64) string { return humanize.IBytes(uint64(n)) }
