package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/vhd"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/transfer"
)

// By the standard method the pools move the data themselves, where no delegate can run:
//
//	source pool                        orchestrator                       target pool
//	 snapshot's disk ── export ──▶ content ─▶ digests, journal ─▶ pieces ── import ──▶ replica's disk
//	                    VHD, or raw                                          raw, in xapi's framing
//
// Around that it is the run that it always is: snapshot, upkeep, ladder, dirty and clean, restore point, retention. The digests give the
// manifest that a later run by delegates can rely upon.
//
// The export is a VHD where the pool can make one: it leaves out what was never written, and says so before the content comes, so that
// the length of the import is known, which must be told beforehand. It is raw of disks that are too large for the format. The import is
// raw in pieces, whatever the SR's format: a piece is written where it belongs, and nothing else is touched. So a disk that this run
// made, in a format that reads as zeroes, gets only what the export holds; every other disk, and so every one that was there before or
// may hold what was on the device, is written from its first to its last byte, zeroes included.
//
// A watermark is never raised: an import that is cut leaves nobody knows what behind, and all that a copy writes must be accounted for
// by the doubts that its journal leaves, or the next run would take it for somebody else's.

// noteTime notes the time before the last look at the replica. Nobody holds its disks all the while, as a delegate would: who starts it
// from then on is found out by the time of the commit.
func (r *run) noteTime(ctx context.Context) (err error) {
	r.unusedAt, err = poolTime(ctx, r.target)
	return err
}

// copyDisks copies every disk, some at a time.
func (r *run) copyDisks(ctx context.Context) error {
	stop := r.saveOften(ctx)
	defer stop()
	r.report.event("standard", "pool %s exports the disks and pool %s imports them: everything goes through the orchestrator, nothing is compared, compressed or resumed",
		r.source.Name, r.target.Name)
	limiter, stopLimit := r.limitCopies(ctx)
	defer stopLimit()
	return r.inParallel(ctx, func(d *diskRun, ctx context.Context) error { return d.copy(ctx, limiter) })
}

// copy copies a disk, and composes the manifest of what was copied.
func (d *diskRun) copy(ctx context.Context, limiter *transfer.Limiter) error {
	started := time.Now()
	var size int64 // of the target, as its SR rounded it
	if err := d.target.API.Call(ctx, "VDI.get_virtual_size", &size, d.vdi); err != nil {
		return err
	}
	c := &diskCopy{
		diskRun: d, ctx: ctx, limiter: limiter, everything: d.plan.Baseline != BaselineZero, end: size,
		hasher: d.store.Installation().DigestKey.NewHasher(), geometry: manifest.Geometry{Size: d.plan.Size},
		buffer: make([]byte, min(manifest.ExtentSize, max(size, d.plan.Size))), started: started,
	}
	d.report.disk(d.plan.Disk, func(disk *report.Disk) { disk.State = report.DiskMoving })
	d.reach = c.geometry.Extents()
	err := d.readDisk(ctx, d.run.source, d.snapshot.ref, d.snapshot.vdi.SR, d.plan.Size, func(content content) error {
		c.begin(content)
		return d.target.API.ImportDisk(ctx, xapi.DiskImport{VDI: d.vdi, SR: d.diskSR(d.plan.Disk).Ref, Body: c, Size: c.length()})
	})
	c.count()
	if err != nil {
		return err
	}
	root, err := c.root.Sum()
	if err != nil {
		return err
	}
	if err := d.compose(ctx, root); err != nil {
		return err
	}
	d.moved = true
	d.report.disk(d.plan.Disk, func(disk *report.Disk) { disk.State, disk.Root = report.DiskFlushed, d.manifest.Root.String() })
	return nil
}

// content is what a disk holds, front to back. *vhd.Content is one.
type content interface {
	// Held tells how many bytes from offset on are held, or left out and zero, alike.
	Held(offset int64) (length int64, held bool)
	// Read fills p; io.EOF after the last byte, if all is well.
	Read(p []byte) (int, error)
}

// readDisk has a pool export a disk of a size, and gives its content: as a VHD or, where there is none that can be read so, raw.
func (d *diskRun) readDisk(ctx context.Context, pool *delegate.Pool, vdi, sr xapi.Ref, size int64, read func(content) error) error {
	export := xapi.DiskExport{VDI: vdi, SR: sr, Format: "vhd"}
	if size <= vhd.MaxSize {
		unfit := false
		err := pool.API.ExportDisk(ctx, export, func(stream io.Reader) error {
			image, err := vhd.NewReader(d.counted(stream), size)
			if err != nil {
				unfit = errors.Is(err, vhd.ErrFormat)
				return err
			}
			held, err := image.Content()
			if err == nil && held.Size != size {
				err = fmt.Errorf("the pool exports a disk of %d bytes, it has %d: %w", held.Size, size, vhd.ErrFormat)
			}
			if err != nil {
				unfit = errors.Is(err, vhd.ErrFormat) || errors.Is(err, vhd.ErrOrder)
				return err
			}
			return read(held)
		})
		failed := (*xapi.Error)(nil) // the export itself, in which case there was text in place of a disk
		if !unfit || errors.As(err, &failed) {
			return err
		}
		d.report.event("raw-export", "disk %s: pool %s exports no VHD that can be read as it comes, so that every byte is read: %v", d.plan.Disk, pool.Name, err)
	}
	export.Format = "raw"
	return pool.API.ExportDisk(ctx, export, func(stream io.Reader) error { return read(&rawContent{stream: d.counted(stream), size: size}) })
}

// rawContent is a disk of which every byte comes.
type rawContent struct {
	stream io.Reader
	size   int64
	offset int64
}

func (r *rawContent) Held(offset int64) (int64, bool) { return r.size - offset, true }

func (r *rawContent) Read(p []byte) (int, error) {
	if r.offset == r.size {
		if n, err := io.ReadFull(r.stream, make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("the export goes on behind the %d bytes of the disk: %w", r.size, errors.Join(errExport, err))
		}
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), r.size-r.offset)]
	n, err := io.ReadFull(r.stream, p)
	if r.offset += int64(n); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("it ended after %d of %d bytes: %w", r.offset, r.size, errExport)
	}
	return n, err
}

// errExport says that a pool did not export what it had to.
var errExport = errors.New("not the whole disk was exported")

// counted counts what comes from a pool.
func (d *diskRun) counted(stream io.Reader) io.Reader { return &counted{stream, &d.received} }

type counted struct {
	io.Reader
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// awaitRelease waits, after a failure, until the pools have let go of the disks: who broke an export or an import off did not wait for
// that, and until then the snapshot cannot be removed, nor another run begin.
func (r *run) awaitRelease(ctx context.Context) {
	for _, d := range r.disks {
		for pool, vdi := range map[*delegate.Pool]xapi.Ref{r.source: d.snapshot.ref, r.target: d.vdi} {
			if vdi == "" {
				continue
			}
			if _, err := r.holders(ctx, pool.API, vdi); err != nil {
				r.log.Info("it is not known whether a disk is free", "disk", d.plan.Disk, "pool", pool.Name, "cause", err)
			}
		}
	}
}

// checkHolders makes sure that nobody holds a disk of the replica but the replica: he could have written to it since it was copied.
func (r *run) checkHolders(ctx context.Context) error {
	for _, d := range r.disks {
		holders, err := r.holders(ctx, r.target.API, d.vdi)
		if err != nil {
			return err
		}
		for _, vm := range holders {
			if vm.UUID != r.standbyUUID {
				return fmt.Errorf("VM %s (%s) holds disk %s of the replica: %w", vm.NameLabel, vm.UUID, d.plan.Disk, ErrChanged)
			}
		}
	}
	return nil
}

// holders are the VMs that have a VBD of a disk, but for control domains that give it back.
func (r *run) holders(ctx context.Context, api xapi.API, ref xapi.Ref) (vms []xapi.VM, err error) {
	vdi, err := xapi.GetRecord[xapi.VDI](ctx, api, classVDI, ref)
	if err != nil {
		return nil, err
	}
	err = heldByOthers(ctx, api, vdi, func(_ xapi.Ref, vm xapi.VM) bool {
		vms = append(vms, vm)
		return true
	})
	return vms, err
}
