package cli

import (
	"fmt"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/report"
)

// writeFindings tells people what was found, and below each finding what mends it.
func writeFindings(w *strings.Builder, findings []report.Finding) {
	for _, f := range findings {
		subject := ""
		if f.Subject != "" && !strings.Contains(f.Cause, f.Subject) {
			subject = f.Subject + ": "
		}
		fmt.Fprintf(w, "! %s (%s): %s%s\n", f.Severity, f.Code, subject, f.Cause)
		if f.Mend != "" {
			fmt.Fprintf(w, "  %s\n", f.Mend)
		}
	}
}

func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
