package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/netproto/line"
	"github.com/understudy-dr/understudy/transfer"
)

// ErrRefused is a pair of files that nothing is measured on: nothing has been written.
var ErrRefused = errors.New("bench refuses")

// memoryLimit and collector are the settings of a delegate (appliance.LimitMemory).
const (
	memoryLimit = "GOMEMLIMIT=80MiB"
	collector   = "GOGC=100"
)

// memory is what a delegate gives to a transfer that it runs alone (appliance/tasks).
const memory = transfer.DefaultMemory

// Options says what is measured.
type Options struct {
	// Program is the command line that runs End in a new process.
	Program        []string
	Source, Target string // image files or block devices; the target is written
	// Trust gives the sender a manifest of the target, made before the clock runs; without it the target is scanned.
	Trust bool
	// Buffered goes through the page cache, for file systems without direct I/O.
	Buffered bool
	// Line puts a line between the ends; nil: loopback as it is.
	Line *line.Spec
	// Compression and Parts are auto when empty.
	Compression transfer.Compression
	Parts       transfer.Parts
	// Stderr takes what the two processes print there.
	Stderr io.Writer
}

// Run brings the target to the content of the source and measures that. The target may be larger; what lies beyond the source's
// size is left alone. Errors before anything was written are ErrRefused.
func Run(ctx context.Context, o Options) (Row, error) {
	size, err := check(o)
	if err != nil {
		return Row{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	key, err := manifest.NewKey()
	if err != nil {
		return Row{}, err
	}
	dir, err := os.MkdirTemp("", "understudy-bench-")
	if err != nil {
		return Row{}, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a folder of the system's temporary one
	known := filepath.Join(dir, "target.manifest")
	if o.Trust {
		if err := scanTarget(ctx, o, key, size, known); err != nil {
			return Row{}, fmt.Errorf("scanning the target for its manifest: %w", err)
		}
	}
	ends, err := prepare(o, key, size, known)
	if err != nil {
		return Row{}, err
	}
	return measure(ctx, o, size, ends)
}

// check returns the logical size.
func check(o Options) (int64, error) {
	for name, value := range map[string]string{"compression": string(o.Compression), "parts": string(o.Parts)} {
		if !slices.Contains([]string{"", "auto", "on", "off"}, value) {
			return 0, fmt.Errorf("unknown %s %.20q: use auto, on or off", name, value)
		}
	}
	source, err := stat(o.Source)
	if err != nil {
		return 0, fmt.Errorf("source: %w", err)
	}
	target, err := stat(o.Target)
	if err != nil {
		return 0, fmt.Errorf("target: %w", err)
	}
	if os.SameFile(source, target) || sameDevice(source, target) {
		return 0, fmt.Errorf("%s and %s are the same: it would be read and written at once", o.Source, o.Target)
	}
	size, err := sizeOf(o.Source, o.Buffered)
	if err != nil {
		return 0, fmt.Errorf("source: %w", err)
	}
	room, err := sizeOf(o.Target, o.Buffered)
	if err != nil {
		return 0, fmt.Errorf("target: %w", err)
	}
	if size == 0 {
		return 0, fmt.Errorf("source %s is empty", o.Source)
	}
	if room < size {
		return 0, fmt.Errorf("target %s has %d bytes, the source %d: enlarge it (truncate -s %d %s)", o.Target, room, size, size, o.Target)
	}
	return size, nil
}

func stat(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if kind := info.Mode().Type(); kind != 0 && kind != fs.ModeDevice {
		return nil, fmt.Errorf("%s is neither a file nor a block device", path)
	}
	return info, nil
}

func sizeOf(path string, buffered bool) (int64, error) {
	device, err := open(path, true, buffered)
	if err != nil {
		return 0, err
	}
	return device.Size(), device.Close()
}

func scanTarget(ctx context.Context, o Options, key manifest.Key, size int64, path string) (err error) {
	disk, err := open(o.Target, true, o.Buffered)
	if err != nil {
		return err
	}
	defer disk.Close() //nolint:errcheck // only read
	f, err := manifest.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w, err := manifest.NewWriter(f, key, manifest.Header{Geometry: manifest.Geometry{Size: size}, Generation: manifest.NewGeneration()})
	if err != nil {
		return err
	}
	add := func(_ context.Context, _ uint32, records []manifest.Record) error {
		for _, r := range records {
			if err := w.Add(r); err != nil {
				return err
			}
		}
		return nil
	}
	if _, err := transfer.Scan(ctx, transfer.ScanSpec{Source: blockio.Readable(disk), Size: size, Key: key, Records: add}); err != nil {
		return err
	}
	if _, err := w.Close(); err != nil {
		return err
	}
	return f.Commit()
}

// prepare writes the orders of receiver and sender; the sender's lacks the address.
func prepare(o Options, key manifest.Key, size int64, known string) ([2]order, error) {
	far, err := netproto.NewIdentity()
	if err != nil {
		return [2]order{}, err
	}
	near, err := netproto.NewIdentity()
	if err != nil {
		return [2]order{}, err
	}
	common := order{Size: size, Buffered: o.Buffered, Key: key.Bytes(), Trusted: o.Trust}
	common.Tuning = transfer.Tuning{Memory: memory, Compression: o.Compression, Parts: o.Parts}
	r, s := common, common
	r.Role, r.Path, r.Seed, r.Peer = receiver, o.Target, far.Seed(), near.Fingerprint()
	s.Role, s.Path, s.Seed, s.Peer, s.Manifest = sender, o.Source, near.Seed(), far.Fingerprint(), known
	return [2]order{r, s}, nil
}

func measure(ctx context.Context, o Options, size int64, orders [2]order) (row Row, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	far, address, err := begin(ctx, o, orders[0])
	if err != nil {
		return row, err
	}
	defer far.stop() //nolint:errcheck // asked below, unless another error counts
	var proxy *line.Proxy
	if o.Line != nil {
		if proxy, err = line.Start(*o.Line, address, line.Options{}); err != nil {
			return row, err
		}
		defer proxy.Close()
		address = proxy.Addr()
	}
	orders[1].Address = address
	near, _, err := begin(ctx, o, orders[1])
	if err != nil {
		return row, err
	}
	defer near.stop() //nolint:errcheck // the same
	began := time.Now()
	received, sent, err := finish(far, near)
	if err != nil {
		if ctx.Err() != nil {
			return row, context.Cause(ctx)
		}
		return row, err
	}
	wall := time.Since(began)
	if sent.Digest != received.Digest {
		return row, fmt.Errorf("the two ends disagree on what was transferred: %s and %s; the target is not a copy", sent.Digest, received.Digest)
	}
	if err := errors.Join(far.stop(), near.stop()); err != nil {
		return row, err
	}
	row = o.row(size, wall, far, near, received, sent)
	if proxy != nil {
		row.overLine(*o.Line, proxy)
	}
	return row, nil
}

// process is an end as the parent sees it.
type process struct {
	role    role
	command *exec.Cmd
	in      io.WriteCloser
	out     *json.Decoder
	ended   bool
	err     error
}

// patience is how long an end that was told to stop may take; then it is killed.
const patience = time.Second

// begin starts an end and returns when it is ready.
func begin(ctx context.Context, o Options, what order) (*process, string, error) {
	p := &process{role: what.Role, command: exec.CommandContext(ctx, o.Program[0], o.Program[1:]...)}
	p.command.Env = append(os.Environ(), memoryLimit, collector)
	p.command.Stderr = o.Stderr
	in, err := p.command.StdinPipe()
	if err != nil {
		return nil, "", err
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	p.command.Cancel = in.Close // which ends it in order
	p.command.WaitDelay = patience
	if err := p.command.Start(); err != nil {
		return nil, "", fmt.Errorf("starting the %s: %w", what.Role, err)
	}
	p.in, p.out = in, decoder(out)
	var ready answer
	if err = json.NewEncoder(in).Encode(what); err == nil {
		ready, err = next(p.out)
	}
	if err != nil {
		_ = p.stop() // says less than err
		if ctx.Err() != nil {
			err = context.Cause(ctx) // which closed its input
		}
		return nil, "", fmt.Errorf("%s: %w", p.role, err)
	}
	return p, ready.Address, nil
}

// finish lets the sender go and takes both results. Each end notices the other's failure by itself; the receiver waits for ever only
// for a sender that never came, and then the sender's error is what counts.
func finish(far, near *process) (received, sent *result, err error) {
	if err := json.NewEncoder(near.in).Encode(start{}); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", near.role, err)
	}
	if sent, err = near.result(); err != nil {
		return nil, nil, err
	}
	received, err = far.result()
	return received, sent, err
}

func (p *process) result() (*result, error) {
	a, err := next(p.out)
	if err == nil && a.Result == nil {
		err = errors.New("an answer without a result")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.role, err)
	}
	return a.Result, nil
}

// stop ends the process by closing its input, and waits for it. It may be called again.
func (p *process) stop() error {
	if p.ended {
		return p.err
	}
	p.ended = true
	_ = p.in.Close() // closed by Wait at the latest
	if p.err = p.command.Wait(); p.err != nil {
		p.err = fmt.Errorf("%s: %w", p.role, p.err)
	}
	return p.err
}

func (p *process) cpu() time.Duration {
	return p.command.ProcessState.UserTime() + p.command.ProcessState.SystemTime()
}
