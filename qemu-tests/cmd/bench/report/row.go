package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Names of the two tools that stand in every case.
const (
	Understudy = "understudy"
	Limit      = "limit"
)

// Row is one tool in one case: the format of bench/results.json.
type Row struct {
	Case      string   `json:"case"` // workload/line
	Tool      string   `json:"tool"` // Understudy, Limit, or a peer's name
	Wall      float64  `json:"wall_s"`
	CPU       float64  `json:"cpu_s"`          // user and system, all processes of the tool
	PeakRSS   int64    `json:"peak_rss_bytes"` // of the tool's largest process
	ReadBytes int64    `json:"read_bytes"`     // from the disks
	WireBytes int64    `json:"wire_bytes"`     // both ways
	SameWork  bool     `json:"same_work"`      // checks content, is durable, and goes over a connection
	Allowed   *float64 `json:"allowed"`        // our wall ÷ its wall that the budget permits; null where there is no budget
	Command   string   `json:"command"`
	Note      string   `json:"note"` // what the tool did not do, how it was measured
	// LineShare is the share of a thin line's rate that was taken while data flowed; 0 where it is not known. The note tells it.
	LineShare float64 `json:"-"`
}

// Workload and Line are the two halves of the case's name.
func (r Row) Workload() string { name, _, _ := strings.Cut(r.Case, "/"); return name }
func (r Row) Line() string     { _, name, _ := strings.Cut(r.Case, "/"); return name }

// Median returns the row with the median wall time, whole, so that its numbers belong together; of an even number the slower of
// the middle two. Its note tells the spread. rows are repetitions of one measurement, at least one.
func Median(rows []Row) Row {
	sorted := slices.SortedFunc(slices.Values(rows), func(a, b Row) int { return cmp.Compare(a.Wall, b.Wall) })
	median := sorted[len(sorted)/2]
	spread := fmt.Sprintf("median of %d, %.2f–%.2f s", len(sorted), sorted[0].Wall, sorted[len(sorted)-1].Wall)
	if median.Note != "" {
		spread = median.Note + "; " + spread
	}
	median.Note = spread
	return median
}

// WriteJSON writes the list of rows.
func WriteJSON(w io.Writer, rows []Row) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(rows)
}

// Case is the rows of one case, in the order of measuring.
type Case struct {
	Name string
	Rows []Row
}

// Cases groups rows, keeping their order.
func Cases(rows []Row) []Case {
	var cases []Case
	for _, r := range rows {
		i := slices.IndexFunc(cases, func(c Case) bool { return c.Name == r.Case })
		if i < 0 {
			i, cases = len(cases), append(cases, Case{Name: r.Case})
		}
		cases[i].Rows = append(cases[i].Rows, r)
	}
	return cases
}

// Tool returns the row of a tool.
func (c Case) Tool(name string) (Row, bool) {
	i := slices.IndexFunc(c.Rows, func(r Row) bool { return r.Tool == name })
	if i < 0 {
		return Row{}, false
	}
	return c.Rows[i], true
}
