package appliance_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/understudy-dr/understudy/appliance"
)

func TestCauseText(t *testing.T) {
	for cause, want := range map[string]string{
		"":       "no cause given",
		"idle":   "idle",
		"a\xffb": "a?b",
		errors.Join(errors.New("one"), errors.New("two")).Error(): "one; two",
		strings.Repeat("a", 1000):                                 strings.Repeat("a", 1000),
		strings.Repeat("a", 1001):                                 strings.Repeat("a", 997) + "…",
		strings.Repeat("é", 2000):                                 strings.Repeat("é", 498) + "…",
	} {
		if got := appliance.CauseText(cause); got != want || len(got) > 1000 || !utf8.ValidString(got) {
			t.Errorf("cause %.40q has %d bytes: %q, want %q", cause, len(got), got, want)
		}
	}
}
