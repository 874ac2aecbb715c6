package peers

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/report"
)

// LimitCommand is the first argument by which this program is started as the limit.
const LimitCommand = "limit"

// Limit is what the hardware allows: a plain direct read, at the engine's queue depth, of what must be read, or a plain copy where all must be
// written. self is this program. Nothing is compared, and nothing goes over a line: the caller sets what must.
func Limit(self string) Tool {
	return measured(report.Limit, false, "", func(j Job) (commands, error) {
		args := []string{self, LimitCommand, "read", j.Source}
		switch {
		case j.FullCopy:
			args = []string{self, LimitCommand, "copy", j.Source, j.Target}
		case !j.Trust:
			args = append(args, j.Target)
		}
		return commands{client: func(int) []string { return args }}, nil
	})
}

// RunLimit is the process that Limit starts: "read FILE..." reads the files at the same time, "copy FILE FILE" copies.
func RunLimit(ctx context.Context, args []string) error {
	switch {
	case len(args) > 1 && args[0] == "read":
		group, ctx := errgroup.WithContext(ctx)
		for _, path := range args[1:] {
			group.Go(func() error { return readAll(ctx, path) })
		}
		return group.Wait()
	case len(args) == 3 && args[0] == "copy":
		return copyAll(ctx, args[1], args[2])
	}
	return fmt.Errorf("bench %s: give 'read FILE...' or 'copy SOURCE TARGET'", LimitCommand)
}

func readAll(ctx context.Context, path string) error {
	return scan(ctx, path, func(c *blockio.Chunk, _ *blockio.AllocationMap) error { c.Release(); return nil })
}

// copyAll keeps as many writes in flight as reads. The target is empty where the source is.
func copyAll(ctx context.Context, from, to string) error {
	target, err := blockio.Open(to, blockio.Options{})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(blockio.DefaultQueueDepth)
	err = scan(ctx, from, func(c *blockio.Chunk, data *blockio.AllocationMap) error {
		group.Go(func() error {
			defer c.Release()
			for off, length := range data.Within(c.Off, int64(len(c.Data))) {
				if _, err := target.WriteAt(c.Data[off-c.Off:][:length], off); err != nil {
					return err
				}
			}
			return nil
		})
		return nil
	})
	return errors.Join(err, group.Wait(), target.Flush(), target.Close())
}

func scan(ctx context.Context, path string, visit func(*blockio.Chunk, *blockio.AllocationMap) error) error {
	dev, err := blockio.Open(path, blockio.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	// What a file has no blocks for need not be read.
	allocated, err := blockio.Allocation(dev)
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	const most = 3*blockio.DefaultQueueDepth + 1 // reads ahead, and writes in flight
	s := blockio.NewScanner(ctx, dev, blockio.ScanOptions{Pool: blockio.NewPool(most), Only: allocated})
	for err == nil {
		var c *blockio.Chunk
		if c, err = s.Next(); err == nil {
			err = visit(c, allocated)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, s.Close(), dev.Close())
}
