package bench

import (
	"fmt"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/netproto/line"
	"github.com/understudy-dr/understudy/transfer"
)

// Row is a measurement.
type Row struct {
	Case      string  `json:"case"` // "trusted" or "untrusted", a slash, and the line: "loopback" or "100mbit-100ms"
	Tool      string  `json:"tool"`
	Wall      float64 `json:"wall_s"`         // with the final flush
	CPU       float64 `json:"cpu_s"`          // user and system time of both ends, from their start to their end
	PeakRSS   int64   `json:"peak_rss_bytes"` // the larger of the two ends' VmHWM
	ReadBytes int64   `json:"read_bytes"`     // from both disks
	WireBytes int64   `json:"wire_bytes"`     // both ways, TLS and framing included
	// SameWork tells that the tool checks content, makes it durable and goes over a connection.
	SameWork bool `json:"same_work"`
	// Allowed is our wall time over this tool's that the budget permits; of our own row it is 1.
	Allowed float64 `json:"allowed"`
	Command string  `json:"command"` // by which the row can be had again
	Note    string  `json:"note"`
	// LineShare is how much of the line's rate was taken to the target while data flowed (line.Proxy.Rates); 0 without a line that has a rate, or
	// when too little passed to tell.
	LineShare float64 `json:"line_share,omitempty"`
}

// row says what was measured.
func (o Options) row(size int64, wall time.Duration, far, near *process, received, sent *result) Row {
	notes := notes(size, received, sent)
	if o.Buffered {
		notes = append(notes, "through the page cache")
	}
	return Row{
		Case: o.caseName(), Tool: "understudy", Wall: wall.Seconds(), CPU: (far.cpu() + near.cpu()).Seconds(), PeakRSS: max(sent.PeakRSS, received.PeakRSS),
		ReadBytes: sent.ReadBytes + received.ReadBytes, WireBytes: sent.WireBytes, SameWork: true, Allowed: 1,
		Command: o.commandLine(), Note: strings.Join(notes, "; "),
	}
}

// overLine adds how full the line was.
func (r *Row) overLine(spec line.Spec, proxy *line.Proxy) {
	if spec.Rate == 0 {
		return
	}
	there, _ := proxy.Rates()
	bytes, _ := proxy.Bytes()
	if r.LineShare = there / float64(spec.Rate); r.LineShare > 0 {
		r.Note += fmt.Sprintf("; %.1f %% of the line while data flowed, %.0f %% of it in all", 100*r.LineShare, 100*float64(bytes)/(r.Wall*float64(spec.Rate)))
	}
}

func (o Options) caseName() string {
	name, over := "untrusted", "loopback"
	if o.Trust {
		name = "trusted"
	}
	if o.Line != nil {
		over = strings.ReplaceAll(o.Line.String(), ",", "-")
	}
	return name + "/" + over
}

// commandLine is how a person would have asked for this measurement.
func (o Options) commandLine() string {
	words := []string{"understudy", "bench", "--source", quote(o.Source), "--target", quote(o.Target)}
	if o.Trust {
		words = append(words, "--trust")
	}
	if o.Buffered {
		words = append(words, "--buffered")
	}
	if o.Line != nil {
		words = append(words, "--line", o.Line.String())
	}
	if o.Compression != "" && o.Compression != transfer.CompressionAuto {
		words = append(words, "--compression", string(o.Compression))
	}
	if o.Parts != "" && o.Parts != transfer.PartsAuto {
		words = append(words, "--parts", string(o.Parts))
	}
	return strings.Join(words, " ")
}

// quote makes one word of a path for a shell.
func quote(path string) string {
	if strings.ContainsAny(path, " \t\n'\"\\$`&|;<>()*?[]#~!{}") {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
