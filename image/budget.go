package image

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
)

// Budget is a size that must not be exceeded.
type Budget struct {
	Name string
	// Bytes and Limit; a limit of 0 is none.
	Bytes, Limit int64
}

const mib = 1 << 20

// Limits of an image with Debian's kernel (design §5): an upload takes seconds on any line, and everything fits in the
// memory of the smallest guest.
const (
	maxInitramfs      = 6 * mib
	maxCompressed     = 24 * mib
	maxCompressedSlim = 8 * mib
	memory            = 256 * mib
	virtualCPUs       = 2
	compressionLevel  = 6
)

// check returns an error that names every budget that is exceeded.
func check(budgets []Budget) error {
	var errs []error
	for _, b := range budgets {
		if b.Limit > 0 && b.Bytes > b.Limit {
			errs = append(errs, fmt.Errorf("image: %s has %d bytes; the budget is %d", b.Name, b.Bytes, b.Limit))
		}
	}
	return errors.Join(errs...)
}

// Table prints budgets for a person.
func Table(w io.Writer, budgets []Budget) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, b := range budgets {
		limit := "–"
		if b.Limit > 0 {
			limit = fmt.Sprintf("%.2f", float64(b.Limit)/mib)
		}
		if _, err := fmt.Fprintf(table, "%.2f MiB\t%s MiB at most\t  %s\n", float64(b.Bytes)/mib, limit, b.Name); err != nil {
			return err
		}
	}
	return table.Flush()
}

// compressedSize is a file's size after gzip -6.
func compressedSize(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("image: %w", err)
	}
	defer f.Close()
	var size counter
	z, err := gzip.NewWriterLevel(&size, compressionLevel)
	if err != nil {
		return 0, fmt.Errorf("image: %w", err)
	}
	if _, err := io.Copy(z, f); err != nil {
		return 0, fmt.Errorf("image: %s: %w", path, err)
	}
	if err := z.Close(); err != nil {
		return 0, fmt.Errorf("image: %s: %w", path, err)
	}
	return int64(size), nil
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
