package main

import (
	"strings"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/peers"
	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/report"
)

// Budgets of design §4 that are not about wall time.
const (
	maxRSS         = 96 << 20            // bytes, of either end
	wireATiB       = 64 << 10            // bytes, unchanged and trusted
	wireAnExtent   = 40                  // bytes, unchanged and untrusted
	extentsATiB    = 1 << 40 / (4 << 20) // of 4 MiB
	offerAnExtent  = 1.2 * 1024          // bytes, of an extent whose blocks are offered by digest
	overWhole      = 1.005               // × the ideal of whole blocks
	overParts      = 1.1                 // × the ideal of parts
	ofRsync        = 0.5                 // × rsync -z, where parts travel
	shareOfTheLine = 0.95
)

// checks holds the rows against the budgets.
func (b *bench) checks(thin peers.Line) []report.Check {
	checks := report.Ratios(b.rows)
	for _, c := range report.Cases(b.rows) {
		ours, ok := c.Tool(report.Understudy)
		if !ok {
			continue
		}
		checks = append(checks, report.Check{What: c.Name + ": peak RSS of either end, MiB", Value: float64(ours.PeakRSS) / (1 << 20), Budget: maxRSS >> 20})
		checks = append(checks, b.wireCheck(ours))
		if z, ok := c.Tool("rsync-z"); ok && b.inParts(ours) {
			checks = append(checks, report.Check{What: c.Name + ": wire bytes ÷ those of rsync -z", Value: float64(ours.WireBytes) / float64(z.WireBytes), Budget: ofRsync})
		}
		if ours.Workload() == "incompressible" && ours.Line() == thin.Name && thin.Spec.Rate > 0 {
			checks = append(checks, report.Check{What: c.Name + ": share of the line's rate while data flows", Least: true, Budget: shareOfTheLine, Value: ours.LineShare})
		}
	}
	return checks
}

// inParts reports whether the budget of a case is that of parts of blocks: over a thin line, where less than half of the blocks changed.
func (b *bench) inParts(r report.Row) bool {
	ideal := b.ideals[r.Case]
	return r.Line() != peers.Loopback().Name && 2*ideal.Parts <= ideal.Raw && ideal.Raw > 0
}

// wireCheck is the budget of the bytes on the wire, beyond what a connection costs with one empty extent.
func (b *bench) wireCheck(r report.Row) report.Check {
	name, trusted := strings.CutSuffix(r.Workload(), trustedSuffix)
	ideal := b.ideals[r.Case]
	extents := float64((b.sizes[r.Case]+manifest.ExtentSize-1)/manifest.ExtentSize - 1)
	beyond := float64(r.WireBytes - b.fixed[fixedKey(r.Line(), trusted)])
	switch {
	case name == "unchanged" && trusted:
		return report.Check{What: r.Case + ": wire bytes a TiB, beyond a connection's", Value: beyond / extents * extentsATiB, Budget: wireATiB}
	case name == "unchanged":
		return report.Check{What: r.Case + ": wire bytes an extent, beyond a connection's", Value: beyond / extents, Budget: wireAnExtent}
	}
	budget := extents * wireATiB / extentsATiB
	if !trusted {
		budget = extents * wireAnExtent
	}
	if !trusted || ideal.Copies > 0 {
		budget += float64(ideal.Extents) * offerAnExtent
	}
	what := ": wire KiB, beyond a connection's; allowed the blocks' bytes + 0.5 %"
	switch {
	case b.inParts(r):
		budget += float64(ideal.PartsCompressed) * overParts
		what = ": wire KiB, beyond a connection's; allowed zstd of the changed parts + 10 %"
	case r.Line() == peers.Loopback().Name:
		budget += float64(ideal.Raw) * overWhole
	default:
		budget += float64(ideal.Compressed) * overWhole
		what = ": wire KiB, beyond a connection's; allowed zstd of the blocks + 0.5 %"
	}
	return report.Check{What: r.Case + what + ", and digests", Value: beyond / 1024, Budget: budget / 1024}
}
