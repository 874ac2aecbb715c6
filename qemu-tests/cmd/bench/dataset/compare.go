package dataset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/understudy-dr/understudy/manifest"
)

// eachBlock reads images side by side, block by block. A shorter one goes on with zeroes.
func eachBlock(paths []string, visit func(block int64, contents [][]byte) error) (err error) {
	var files []*os.File
	var size int64
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	contents := make([][]byte, len(paths))
	for i, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		files = append(files, f)
		info, err := f.Stat()
		if err != nil {
			return err
		}
		size = max(size, info.Size())
		contents[i] = make([]byte, 16*manifest.BlockSize)
	}
	parts := make([][]byte, len(paths))
	for off := int64(0); off < size; off += int64(len(contents[0])) {
		for i, f := range files {
			n, err := f.ReadAt(contents[i], off)
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			clear(contents[i][n:])
		}
		for at := int64(0); at < int64(len(contents[0])) && off+at < size; at += manifest.BlockSize {
			for i := range parts {
				parts[i] = contents[i][at:min(at+manifest.BlockSize, size-off)]
			}
			if err := visit((off+at)/manifest.BlockSize, parts); err != nil {
				return err
			}
		}
	}
	return nil
}

var zeroes [manifest.BlockSize]byte

func isZero(p []byte) bool { return bytes.Equal(p, zeroes[:len(p)]) }

// usedBlocks lists the blocks that are not all zero.
func usedBlocks(image string) (used []int64, err error) {
	err = eachBlock([]string{image}, func(block int64, c [][]byte) error {
		if !isZero(c[0]) {
			used = append(used, block)
		}
		return nil
	})
	return used, err
}

// differing lists the blocks in which two images differ, adjacent ones joined.
func differing(a, b string) (spans []span, err error) {
	err = eachBlock([]string{a, b}, func(block int64, c [][]byte) error {
		if bytes.Equal(c[0], c[1]) {
			return nil
		}
		off := block * manifest.BlockSize
		if n := len(spans); n > 0 && spans[n-1].off+spans[n-1].length == off {
			spans[n-1].length += int64(len(c[0]))
		} else {
			spans = append(spans, span{off, int64(len(c[0]))})
		}
		return nil
	})
	return spans, err
}

// Verify reports the first block in which the target is not what the source is.
func (w *Workload) Verify(ctx context.Context) error {
	for _, name := range []string{w.Source(), w.Target()} {
		info, err := os.Stat(w.set.path(name))
		if err != nil {
			return err
		}
		if info.Size() != w.Size {
			return fmt.Errorf("%s has %d bytes, not %d", name, info.Size(), w.Size)
		}
	}
	return eachBlock([]string{w.set.path(w.Source()), w.set.path(w.Target())}, func(block int64, c [][]byte) error {
		if !bytes.Equal(c[0], c[1]) {
			return fmt.Errorf("the target differs from the source in block %d", block)
		}
		return ctx.Err()
	})
}
