package bench

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/understudy-dr/understudy/transfer"
)

// notes say what became of the disk's content, how it was compressed, and what was the bottleneck.
func notes(size int64, received, sent *result) []string {
	bytes := func(n int64) string { return humanize.IBytes(uint64(n)) }
	verdicts := fmt.Sprintf("%s: same %s, zero %s, copied %s, sent %s", bytes(size), bytes(sent.Same), bytes(sent.Zero), bytes(sent.Copied), bytes(sent.Sent))
	if sent.Spared > 0 {
		verdicts += ", spared " + bytes(sent.Spared)
	}
	var levels []string
	for _, l := range []transfer.Level{transfer.LevelRaw, transfer.LevelFastest, transfer.LevelDefault, transfer.LevelBetter} {
		if n := sent.Levels[l]; n > 0 {
			levels = append(levels, fmt.Sprintf("%s %s", l, bytes(n)))
		}
	}
	notes := []string{verdicts}
	if len(levels) > 0 {
		notes = append(notes, "compression "+strings.Join(levels, ", "))
	}
	return append(notes, sent.Bottleneck(received.Counters))
}
