package replica

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// KeyVerdict is the key of a restore point's other_config that says what its last test came to: "booted" or "failed", the time, and why, with
// blanks between. It is one key, so that a reader sees all of it or nothing. A clone of the restore point inherits it, and has it
// taken away.
const KeyVerdict = prefix + "verdict"

// Outcome is what the test of a restore point came to.
type Outcome string

// The outcomes.
const (
	Booted Outcome = "booted"
	Failed Outcome = "failed"
)

// Verdict is what a test says of a restore point.
type Verdict struct {
	Outcome Outcome   `json:"outcome"`
	Time    time.Time `json:"time"` // by the pool's clock
	Cause   string    `json:"cause"`
}

// maxVerdictCause bounds Cause as it is kept in a pool, in characters.
const maxVerdictCause = 240

// String is how a pool keeps it; ReadVerdict reads it. Of a long cause the beginning is kept, and what XML cannot hold is left out
// (xapi-facts §14.24).
func (v Verdict) String() string {
	cause := strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return -1
	}, strings.ToValidUTF8(v.Cause, "?"))
	if runes := []rune(cause); len(runes) > maxVerdictCause {
		cause = string(runes[:maxVerdictCause-1]) + "…"
	}
	return fmt.Sprintf("%s %s %s", v.Outcome, v.Time.UTC().Format(time.RFC3339), cause)
}

// ReadVerdict reads what the last test of a restore point came to; nil when there was none, or when somebody wrote there what we would not.
func ReadVerdict(otherConfig map[string]string) *Verdict {
	outcome, rest, _ := strings.Cut(otherConfig[KeyVerdict], " ")
	stamp, cause, _ := strings.Cut(rest, " ")
	at, err := time.Parse(time.RFC3339, stamp)
	if err != nil || Outcome(outcome) != Booted && Outcome(outcome) != Failed {
		return nil
	}
	return &Verdict{Outcome: Outcome(outcome), Time: at, Cause: cause}
}
