package report

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"

	"github.com/dustin/go-humanize"
)

// Document is everything that results.md tells.
type Document struct {
	Date    string
	Commit  string // of the code that was measured
	Machine []Fact
	Data    []Fact // the data set and how it was measured
	// Workloads explains the first half of the cases' names.
	Workloads []Fact
	// Loads is what each case had to move.
	Loads  []Load
	Rows   []Row
	Checks []Check
	// Failed is what could not be measured, and why.
	Failed []string
	// Absent is the peers that were left out, and why.
	Absent []Fact
}

// Load is what a tool would have to send that knew beforehand what differs, in bytes but for the numbers of blocks.
type Load struct {
	Case                   string
	Differing, Copies      int64 // blocks that differ; those of them that the target, or an earlier block, holds elsewhere
	Raw, Compressed        int64 // the others that are not zero: as they are, and by zstd
	Parts, PartsCompressed int64 // their 4 KiB parts that differ
	Sent                   int64 // bytes on the wire of understudy
}

// Fact is one line of a description.
type Fact struct{ Name, Value string }

const page = `# What make bench measured

{{.Date}}{{with .Commit}}, commit {{.}}{{end}}. The numbers are those of [results.json](results.json); every row is the repetition with the median wall time.

![throughput](throughput.svg)

![bytes on the wire](wire.svg)

| machine | |
|---|---|
{{range .Machine}}| {{.Name}} | {{cell .Value}} |
{{end}}
| measured | |
|---|---|
{{range .Data}}| {{.Name}} | {{cell .Value}} |
{{end}}
| workload | what it is |
|---|---|
{{range .Workloads}}| {{.Name}} | {{cell .Value}} |
{{end}}
{{with .Failed}}## Not measured

{{range .}}- {{.}}
{{end}}
{{end}}## Budgets

{{missed .Checks}}

| | budget | measured | allowed |
|---|---|---:|---:|
{{range .Checks}}| {{verdict .OK}} | {{cell .What}} | {{number .Value}} | {{if .Least}}≥{{else}}≤{{end}} {{number .Budget}} |
{{end}}
## What had to be sent

Of the blocks that differ, those that are not zero and that neither the target nor an earlier block holds; *zstd* compresses each block by itself.

| case | differing blocks | copies | rest | zstd | their changed parts | zstd | understudy's wire |
|---|---:|---:|---:|---:|---:|---:|---:|
{{range .Loads}}| {{.Case}} | {{.Differing}} | {{.Copies}} | {{size .Raw}} | {{size .Compressed}} | {{size .Parts}} | {{size .PartsCompressed}} | {{size .Sent}} |
{{end}}
## Cases

*ours ÷ its* is understudy's wall time divided by the row's: below 1 we are faster. *× ideal* is the row's wire bytes divided by the limit's, which are those
of a tool that knows the differing blocks beforehand. *same work*: it checks content, is durable, and goes over a connection.
{{range cases .Rows}}
### {{.Name}}

| tool | wall s | ours ÷ its | allowed | | CPU s | peak RSS | read | wire | × ideal | same work | note |
|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---|---|
{{table .}}{{end}}
## Commands

Run in the folder of the images. Servers are started before the clock, which stops when the target has been synced.

{{range cases .Rows}}{{$case := .Name}}{{range .Rows}}- {{$case}}, {{.Tool}}: ` + "`{{.Command}}`" + `
{{end}}{{end}}
## Left out

| tool | why |
|---|---|
{{range .Absent}}| {{.Name}} | {{cell .Value}} |
{{end}}`

// WriteMarkdown writes results.md.
func WriteMarkdown(w io.Writer, d Document) error {
	t := template.New("results.md").Funcs(template.FuncMap{
		"cases": Cases, "table": table, "verdict": verdict, "number": number, "cell": cell, "missed": missed, "size": size,
	})
	var b bytes.Buffer
	if err := template.Must(t.Parse(page)).Execute(&b, d); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}

func missed(checks []Check) string {
	n := len(slices.DeleteFunc(slices.Clone(checks), Check.OK))
	if n == 0 {
		return fmt.Sprintf("All %d hold.", len(checks))
	}
	return fmt.Sprintf("**%d of %d are missed.**", n, len(checks))
}

func table(c Case) string {
	ours, measured := c.Tool(Understudy)
	limit, ideal := c.Tool(Limit)
	var b strings.Builder
	for _, r := range c.Rows {
		ratio, allowed, mark, times := "", "", "", ""
		if measured && r.Tool != Understudy {
			ratio = number(ours.Wall / r.Wall)
			if r.Allowed != nil {
				allowed, mark = number(*r.Allowed), verdict(ours.Wall/r.Wall <= *r.Allowed)
			}
		}
		if ideal && limit.WireBytes > 0 {
			times = number(float64(r.WireBytes) / float64(limit.WireBytes))
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", r.Tool, number(r.Wall), ratio, allowed, mark, number(r.CPU),
			size(r.PeakRSS), size(r.ReadBytes), size(r.WireBytes), times, map[bool]string{true: "yes", false: "no"}[r.SameWork], cell(r.Note))
	}
	return b.String()
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// number shows three digits or all before the point.
func number(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// cell keeps a text from breaking a table.
func cell(s string) string { return strings.NewReplacer("|", `\|`, "\n", " ").Replace(s) }
