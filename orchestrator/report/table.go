package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Row is one line of the table: the counters of one disk in one run.
type Row struct {
	Disk   string `json:"disk"`
	Run    string `json:"run"` // the label given to Rows
	Size   int64  `json:"size"`
	Read   int64  `json:"read"` // from the source
	Same   int64  `json:"same"`
	Zero   int64  `json:"zero"`
	Copied int64  `json:"copied"`
	Sent   int64  `json:"sent"`
	Spared int64  `json:"spared"`
	Wire   int64  `json:"wire"`
	// Assumed was not read, as change tracking had it; Hinted is what that said was to be read.
	Assumed int64   `json:"assumed,omitempty"`
	Hinted  int64   `json:"hinted,omitempty"`
	Ratio   float64 `json:"ratio"` // Size ÷ Wire: bytes brought up to date for one byte on the line; 0 when nothing was on it
	Time    float64 `json:"time_s"`
	// Bottleneck says in words how busy each stage was.
	Bottleneck string `json:"bottleneck,omitempty"`
}

// Rows gives one row a disk of run, in the run's order. label names the run to a reader; its id does when label is empty.
func Rows(label string, run Run) []Row {
	if label == "" {
		label = run.ID
	}
	rows := make([]Row, 0, len(run.Disks))
	for _, d := range run.Disks {
		row := Row{
			Disk: d.Disk, Run: label, Size: d.LogicalSize, Read: d.Read, Same: d.Same, Zero: d.Zero,
			Copied: d.Copied, Sent: d.Sent, Spared: d.Spared, Wire: d.Wire, Assumed: d.Assumed, Hinted: d.Hinted, Time: d.Duration.Seconds(), Bottleneck: d.Bottleneck,
		}
		if d.Wire > 0 {
			row.Ratio = float64(d.LogicalSize) / float64(d.Wire)
		}
		rows = append(rows, row)
	}
	return rows
}

// WriteTable writes rows as plain text in aligned columns, without colours or lines of boxes, and below them how busy the stages were.
func WriteTable(w io.Writer, rows []Row) error {
	body := make([]table.Row, 0, len(rows))
	var below []string
	for _, r := range rows {
		body = append(body, table.Row{
			r.Disk, r.Run, size(r.Size), size(r.Read), size(r.Same), size(r.Zero),
			size(r.Copied), size(r.Sent), size(r.Spared), size(r.Wire), ratio(r.Ratio), seconds(r.Time),
		})
		if r.Assumed > 0 {
			below = append(below, fmt.Sprintf("disk %s, run %s: %s were not read but assumed, as change tracking has them; the root is true as far as that is", r.Disk, r.Run, size(r.Assumed)))
		}
		if r.Bottleneck != "" {
			below = append(below, fmt.Sprintf("disk %s, run %s: %s", r.Disk, r.Run, r.Bottleneck))
		}
	}
	header := table.Row{"disk", "run", "size", "read", "same", "zero", "copied", "sent", "spared", "wire", "ratio", "time"}
	return writePlain(w, header, []string{"run"}, body, below)
}

// writePlain writes a table and, below it, lines of text. Columns stand to the right, but those named in left.
func writePlain(w io.Writer, header table.Row, left []string, rows []table.Row, below []string) error {
	t := table.NewWriter()
	t.SetStyle(plainStyle())
	t.AppendHeader(header)
	configs := []table.ColumnConfig{}
	for i := range header {
		if name, ok := header[i].(string); !ok || !slices.Contains(left, name) {
			configs = append(configs, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight})
		}
	}
	t.SetColumnConfigs(configs)
	t.AppendRows(rows)
	var b strings.Builder
	for line := range strings.Lines(t.Render()) {
		b.WriteString(strings.TrimRight(line, " \n"))
		b.WriteByte('\n')
	}
	for _, line := range below {
		fmt.Fprintln(&b, line)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	return nil
}

func plainStyle() table.Style {
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatDefault
	style.Box.PaddingLeft = ""
	style.Box.PaddingRight = "  "
	return style
}

// size writes bytes as people read them, in binary units; a dash stands for none.
func size(n int64) string {
	if n <= 0 {
		return "-"
	}
	return humanize.IBytes(uint64(n))
}

func ratio(r float64) string {
	switch {
	case r == 0:
		return "-"
	case r < 100:
		return fmt.Sprintf("%.1fx", r)
	default:
		return humanize.Comma(int64(r)) + "x"
	}
}

// ended is seconds, with a dash for what lasts still.
func ended(s float64) string {
	if s == 0 {
		return "-"
	}
	return seconds(s)
}

// seconds keeps two or three figures: 0.42s, 12.3s, 4m7s.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.2fs", s)
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", s)
	default:
		return d.Round(time.Second).String()
	}
}
