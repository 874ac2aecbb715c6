package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
)

// print writes what a command has to say, once: as JSON, or as text.
func (a *app) print(document any, text func(w *strings.Builder)) error {
	a.printed = true
	var out strings.Builder
	if a.json {
		encoder := json.NewEncoder(&out)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(document); err != nil {
			return fmt.Errorf("writing the result: %w", err)
		}
	} else {
		text(&out)
	}
	if _, err := io.WriteString(a.stdout, out.String()); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

// complain writes to standard error. There is nowhere to say that this failed; the exit code remains.
func (a *app) complain(text string) { _, _ = io.WriteString(a.stderr, text) }

// printTable writes lines of cells in aligned columns.
func printTable(w *strings.Builder, header []string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, cells := range append([][]string{header}, rows...) {
		_, _ = io.WriteString(t, strings.Join(cells, "\t")+"\n") // a Builder takes everything
	}
	_ = t.Flush() // the same
}

// size writes bytes in binary units.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// moment writes a time for people; a dash stands for never.
func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// dash stands for an empty cell.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
