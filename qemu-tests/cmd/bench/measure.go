package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
)

// measured is a row of 'understudy bench --json', or what compares to it.
type measured struct {
	Wall      float64 `json:"wall_s"`
	CPU       float64 `json:"cpu_s"`
	PeakRSS   int64   `json:"peak_rss_bytes"`
	ReadBytes int64   `json:"read_bytes"`
	WireBytes int64   `json:"wire_bytes"`
}

// prepare writes two equal disks of content that neither compresses nor repeats.
func (b *bench) prepare(ctx context.Context) error {
	r := rand.NewChaCha8([32]byte{1})
	buf := blockio.AlignedBuffer(blockio.RequestSize)
	source, err := blockio.Open(b.source, blockio.Options{Create: b.size})
	if err != nil {
		return err
	}
	target, err := blockio.Open(b.target, blockio.Options{Create: b.size})
	if err != nil {
		return errors.Join(err, source.Close())
	}
	for off := int64(0); off < b.size && err == nil; off += int64(len(buf)) {
		part := buf[:min(int64(len(buf)), b.size-off)]
		_, _ = r.Read(part) // never fails
		_, err1 := source.WriteAt(part, off)
		_, err2 := target.WriteAt(part, off)
		err = errors.Join(err1, err2, ctx.Err())
	}
	return errors.Join(err, source.Flush(), target.Flush(), source.Close(), target.Close())
}

// plainRead reads disks at the same time, in order, at the engine's queue depth,
// does nothing with them, and returns the seconds it took.
func (b *bench) plainRead(ctx context.Context, paths ...string) (float64, error) {
	if err := dropCaches(); err != nil {
		return 0, err
	}
	start := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for _, path := range paths {
		group.Go(func() error { return readAll(ctx, path) })
	}
	err := group.Wait()
	return time.Since(start).Seconds(), err
}

func readAll(ctx context.Context, path string) error {
	dev, err := blockio.Open(path, blockio.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	s := blockio.NewScanner(ctx, dev, blockio.ScanOptions{})
	for {
		c, err := s.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return errors.Join(err, s.Close(), dev.Close())
		}
		c.Release()
	}
}

// understudy measures one run of the engine, after a change of the target.
func (b *bench) understudy(ctx context.Context, trust bool, change func() error) (measured, error) {
	if change != nil {
		if err := change(); err != nil {
			return measured{}, err
		}
	}
	return b.engine(ctx, b.source, b.target, trust)
}

func (b *bench) engine(ctx context.Context, source, target string, trust bool) (m measured, err error) {
	if err := dropCaches(); err != nil {
		return m, err
	}
	args := []string{"bench", "--json", "--source", source, "--target", target}
	if trust {
		args = append(args, "--trust")
	}
	c := exec.CommandContext(ctx, b.program, args...)
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return m, fmt.Errorf("understudy bench: %w", err)
	}
	return m, json.Unmarshal(out, &m)
}

// fixedWire measures what a connection costs with a disk of one extent, trusted
// and untrusted.
func (b *bench) fixedWire() (fixed [2]int64, err error) {
	source, target := filepath.Join(b.dir, "small-source.raw"), filepath.Join(b.dir, "small-target.raw")
	for _, path := range []string{source, target} {
		if err := os.WriteFile(path, make([]byte, smallDiskSize), 0o600); err != nil {
			return fixed, err
		}
	}
	for i, trust := range []bool{true, false} {
		m, err := b.engine(context.Background(), source, target, trust)
		if err != nil {
			return fixed, err
		}
		fixed[i] = m.WireBytes
	}
	return fixed, nil
}

// change writes new content to one block in changedShare of the target, spread
// over the whole disk; the run then writes the old one back.
func (b *bench) change() error {
	f, err := os.OpenFile(b.target, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	r := rand.NewChaCha8([32]byte{2})
	pick := rand.New(r)
	block := make([]byte, manifest.BlockSize)
	blocks := b.size / manifest.BlockSize
	for first := int64(0); first+changedShare <= blocks && err == nil; first += changedShare {
		_, _ = r.Read(block) // never fails
		_, err = f.WriteAt(block, (first+pick.Int64N(changedShare))*manifest.BlockSize)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// clear makes the target all holes.
func (b *bench) clear() error {
	return errors.Join(os.Truncate(b.target, 0), os.Truncate(b.target, b.size))
}

// rsync measures, once, rsync through its daemon on loopback. The target is synced
// within the timed part, as the engine's is.
func (b *bench) rsync(ctx context.Context, change func() error) (m measured, err error) {
	dir, err := filepath.Abs(b.dir)
	if err != nil {
		return m, err
	}
	port, err := freePort()
	if err != nil {
		return m, err
	}
	conf := filepath.Join(dir, "rsyncd.conf")
	text := fmt.Sprintf("use chroot = no\nport = %d\naddress = 127.0.0.1\n[disks]\npath = %s\nread only = no\nuid = %d\ngid = %d\n", port, dir, os.Getuid(), os.Getgid())
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return m, err
	}
	daemon := exec.CommandContext(ctx, "rsync", "--daemon", "--no-detach", "--config", conf)
	daemon.Stderr = os.Stderr
	if err := daemon.Start(); err != nil {
		return m, fmt.Errorf("rsync's daemon: %w; run hack/deps bench", err)
	}
	defer func() { _ = daemon.Process.Kill(); _ = daemon.Wait() }()
	if err := waitFor(ctx, port); err != nil {
		return m, err
	}
	if err := errors.Join(change(), dropCaches()); err != nil {
		return m, err
	}
	c := exec.CommandContext(ctx, "rsync", "--inplace", "--no-whole-file", "--ignore-times", b.source, "rsync://127.0.0.1:"+strconv.Itoa(port)+"/disks/target.raw")
	c.Stderr = os.Stderr
	start := time.Now()
	err = errors.Join(c.Run(), syncFile(b.target))
	m.Wall = time.Since(start).Seconds()
	if state := c.ProcessState; state != nil {
		m.CPU = (state.UserTime() + state.SystemTime()).Seconds() // the client's
	}
	return m, err
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func waitFor(ctx context.Context, port int) error {
	for range 100 {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("rsync's daemon does not listen")
}

// dropCaches empties the page cache: without it the buffered peers would read
// from memory. Only root may.
func dropCaches() error {
	syscall.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return fmt.Errorf("drop the page cache: %w; run the benchmark as root", err)
	}
	return nil
}
