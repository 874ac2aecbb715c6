package report

import "slices"

// Severity says whether a finding stops what it is about.
type Severity string

// The two severities.
const (
	SeverityError   Severity = "error"   // what it is about cannot be done
	SeverityWarning Severity = "warning" // it can, but not as somebody may expect
)

// Valid reports whether s is one of the severities above.
func (s Severity) Valid() bool { return s == SeverityError || s == SeverityWarning }

// Finding is something that stands in the way of a run, or that should be known before it, and what to do about it.
type Finding struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"`    // a short stable word, such as "no-address"
	Subject  string   `json:"subject"` // what it is about, as people call it: a VM, a disk, an SR, a host, a selector
	Cause    string   `json:"cause"`
	Mend     string   `json:"mend,omitempty"`
}

// Errors reports whether one of the findings is an error.
func Errors(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == SeverityError })
}
