package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const block = 64 << 10

func main() {
	sizeText := flag.String("size", "4GiB", "`size` of the VM's disk, half of which is full")
	folder := flag.String("folder", "build", "`folder` for the disks, on a file system with direct I/O")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, *sizeText, *folder)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "runs:", err)
		os.Exit(1)
	}
}

// way is one way to replicate what has changed.
type way struct {
	name    string
	changes bool // before it
	request func(*replication.Request)
}

var ways = []way{
	{"first copy", false, untracked},
	{"1 % changed", true, untracked},
	{"1 % changed, trusted", true, func(r *replication.Request) { r.Trust = true; untracked(r) }},
	{"unchanged, trusted", false, func(r *replication.Request) { r.Trust = true; untracked(r) }},
	{"CBT begins", false, func(r *replication.Request) { r.Trust = true }},
	{"1 % changed, CBT", true, func(*replication.Request) {}},
	{"1 % changed, trusted, CBT", true, func(r *replication.Request) { r.Trust = true }},
	{"unchanged, trusted, CBT", false, func(r *replication.Request) { r.Trust = true }},
}

func untracked(r *replication.Request) { r.CBT = replication.CBTOff }

func measure(ctx context.Context, sizeText, folder string) (err error) {
	size, err := humanize.ParseBytes(sizeText)
	if err != nil || size < 64<<20 || size > 1<<40 {
		return fmt.Errorf("--size %s: give 64MiB to 1TiB", sizeText)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(folder, "runs-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	abd, err := buildDelegate(ctx, work)
	if err != nil {
		return err
	}
	secrets, err := state.LoadOrCreateSecrets(filepath.Join(work, "state"), filepath.Join(work, "key"), func(string) string { return "" })
	if err != nil {
		return err
	}
	store, err := state.Open(ctx, filepath.Join(work, "state"), secrets)
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // goes away with the folder
	a, err := newSite(ctx, "a", work, abd, "127.81.0.10-127.81.0.19/8", store)
	if err != nil {
		return err
	}
	defer a.close()
	b, err := newSite(ctx, "b", work, abd, "127.82.0.10-127.82.0.19/8", store)
	if err != nil {
		return err
	}
	defer b.close()
	vm, err := a.AddVM(xapisim.VMConfig{Name: "web", Disks: []xapisim.DiskConfig{{Size: int64(size)}}})
	if err != nil {
		return err
	}
	disk := a.VDIPath(vm.VDIs[0])
	if err := write(ctx, disk, 0, int64(size)/2); err != nil {
		return err
	}
	engine := &replication.Engine{Store: store}
	table := tabwriter.NewWriter(os.Stdout, 2, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(table, "run\tin all\tof it transfer\tin the pools\tcalls\tread at the source\tat the target\tassumed\tsent\ton the line\t")
	for _, w := range ways {
		if w.changes {
			if err := change(ctx, disk, int64(size)); err != nil {
				return err
			}
		}
		request := replication.Request{Source: a.delegate, Target: b.delegate, VM: "web", SR: "storage", Direction: report.Push, OverwriteTarget: true}
		w.request(&request)
		if err := one(ctx, table, w.name, engine, request, a.watch, b.watch); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return table.Flush()
}

// one measures one run. The pools' time is that in which a call to either was under way.
func one(ctx context.Context, table io.Writer, name string, engine *replication.Engine, request replication.Request, a, b *watch) error {
	a.taken()
	b.taken()
	run, err := engine.Replicate(ctx, request)
	if err != nil {
		return err
	}
	callsA, busyA := a.taken()
	callsB, busyB := b.taken()
	var sum report.Counters
	for _, d := range run.Disks {
		sum = sum.Add(d.Counters)
	}
	var transfer time.Duration
	for _, p := range run.Phases {
		if p.Phase == report.PhaseTransfer {
			transfer = p.Finished.Sub(p.Started)
		}
	}
	bytes := func(n int64) string { return humanize.IBytes(uint64(n)) }
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
	_, err = fmt.Fprintf(table, "%s\t%s\t%s\t%s + %s\t%d + %d\t%s\t%s\t%s\t%s\t%s\t\n", name, seconds(run.Finished.Sub(run.Started)), seconds(transfer),
		seconds(busyA), seconds(busyB), callsA, callsB, bytes(sum.Read), bytes(sum.ReadTarget), bytes(sum.Assumed), bytes(sum.Sent), bytes(sum.Wire))
	return err
}

// change gives one block in a hundred, of those that hold something, another content.
func change(ctx context.Context, path string, size int64) error {
	full := size / 2 / block
	for _, at := range rand.Perm(int(full))[:full/100] {
		if err := write(ctx, path, int64(at)*block, block); err != nil {
			return err
		}
	}
	return nil
}

// write fills a part of a disk with noise.
func write(ctx context.Context, path string, offset, length int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.IntN(256))
	}
	noise := rand.NewChaCha8(seed)
	piece := make([]byte, 1<<20)
	for done := int64(0); done < length && err == nil; {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
			break
		}
		part := piece[:min(int64(len(piece)), length-done)]
		_, _ = noise.Read(part) // never fails
		_, err = f.WriteAt(part, offset+done)
		done += int64(len(part))
	}
	return errors.Join(err, f.Sync(), f.Close())
}
