package report

import (
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
)

// Bar is one tool's value in a group.
type Bar struct {
	Tool  string
	Value float64
	Label string
}

// Group is the bars of one case.
type Group struct {
	Name string
	Bars []Bar
}

// Plot is a bar chart, one group below the other.
type Plot struct {
	Title  string
	Groups []Group
	Log    bool // bars grow with the logarithm of the value
}

// Throughput plots how many bytes of disk each tool brings to the new state a second. size is the disk's size in bytes of a case.
func Throughput(rows []Row, size func(Row) int64) Plot {
	return plot(rows, Plot{Title: "throughput: size of the disk ÷ wall time"}, func(r Row) (float64, string) {
		v := float64(size(r)) / r.Wall
		return v, humanize.IBytes(uint64(v)) + "/s"
	})
}

// Wire plots the bytes on the line, on a logarithmic scale.
func Wire(rows []Row) Plot {
	return plot(rows, Plot{Title: "bytes on the wire, both ways (logarithmic)", Log: true}, func(r Row) (float64, string) {
		return float64(r.WireBytes), humanize.IBytes(uint64(r.WireBytes))
	})
}

func plot(rows []Row, p Plot, value func(Row) (float64, string)) Plot {
	for _, c := range Cases(rows) {
		g := Group{Name: c.Name}
		for _, r := range c.Rows {
			if v, label := value(r); v > 0 && !math.IsInf(v, 0) {
				g.Bars = append(g.Bars, Bar{Tool: r.Tool, Value: v, Label: label})
			}
		}
		if len(g.Bars) > 0 {
			p.Groups = append(p.Groups, g)
		}
	}
	return p
}

// Measures of the drawing, in pixels.
const (
	plotWidth  = 900
	plotLeft   = 260 // names stand left of it
	plotRight  = 110 // labels stand right of the longest bar
	plotTop    = 70
	barHeight  = 12
	barPitch   = 15
	groupSpace = 10
)

// The colours tell the tools apart on white and on black.
var (
	ourColour   = "#d9480f"
	limitColour = "#868e96"
	peerColours = []string{"#1c7ed6", "#2b8a3e", "#9c36b5", "#e8a900", "#0b7285", "#a61e4d"}
)

// Write draws the plot as SVG.
func (p Plot) Write(w io.Writer) error {
	low, high := math.Inf(1), 0.0
	var tools []string
	height := plotTop
	for _, g := range p.Groups {
		height += len(g.Bars)*barPitch + groupSpace
		for _, b := range g.Bars {
			low, high = min(low, b.Value), max(high, b.Value)
			if !slices.Contains(tools, b.Tool) {
				tools = append(tools, b.Tool)
			}
		}
	}
	colours := colours(tools)
	length := func(v float64) float64 {
		share := v / high
		if p.Log {
			// A decade of room below the least, for it to be seen.
			share = math.Log10(10*v/low) / math.Log10(10*high/low)
		}
		return share * (plotWidth - plotLeft - plotRight)
	}
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n", plotWidth, height, plotWidth, height)
	fmt.Fprintf(&s, `<rect width="100%%" height="100%%" fill="#fff"/><text x="10" y="24" font-size="16">%s</text>`+"\n", html.EscapeString(p.Title))
	for i, tool := range tools {
		x := 10 + i*(plotWidth-20)/max(len(tools), 6)
		fmt.Fprintf(&s, `<rect x="%d" y="38" width="12" height="12" fill="%s"/><text x="%d" y="48">%s</text>`+"\n", x, colours[tool], x+17, html.EscapeString(tool))
	}
	y := plotTop
	for _, g := range p.Groups {
		fmt.Fprintf(&s, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", plotLeft-8, y+len(g.Bars)*barPitch/2+3, html.EscapeString(g.Name))
		for _, b := range g.Bars {
			l := length(b.Value)
			fmt.Fprintf(&s, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"><title>%s</title></rect><text x="%.1f" y="%d">%s</text>`+"\n",
				plotLeft, y, l, barHeight, colours[b.Tool], html.EscapeString(b.Tool), plotLeft+l+5, y+10, html.EscapeString(b.Label))
			y += barPitch
		}
		y += groupSpace
	}
	s.WriteString("</svg>\n")
	_, err := io.WriteString(w, s.String())
	return err
}

func colours(tools []string) map[string]string {
	m := map[string]string{Understudy: ourColour, Limit: limitColour}
	next := 0
	for _, tool := range tools {
		if _, ok := m[tool]; !ok {
			m[tool] = peerColours[next%len(peerColours)]
			next++
		}
	}
	return m
}
