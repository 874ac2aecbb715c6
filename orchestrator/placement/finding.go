package placement

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/report"
)

// Codes of the findings of this package. They are stable.
const (
	CodeImageMissing  = "image-missing"    // no delegate image is deployed
	CodeImageProtocol = "image-protocol"   // the image speaks another version of the protocol
	CodeNoHost        = "no-host"          // the pool has no host
	CodeHostDown      = "host-down"        // a host is not alive
	CodeHostDisabled  = "host-disabled"    // a host is in maintenance
	CodeHostMemory    = "host-memory"      // a host has no memory for a delegate
	CodeSRUnseen      = "sr-unseen"        // a host does not see an SR
	CodeImageUnseen   = "image-sr-unseen"  // a host does not see the image's SR
	CodeSRUnplugged   = "sr-unplugged"     // no host sees an SR
	CodeSRUnscanned   = "sr-unscanned"     // an SR does not tell its size
	CodeSpace         = "space"            // an SR lacks room
	CodeNoDisk        = "no-disk"          // the VM has no disk
	CodeTooManyDisks  = "too-many-disks"   // more than a delegate takes
	CodeDiskSR        = "disk-sr"          // a disk's SR is not known
	CodeDiskMissing   = "disk-missing"     // a disk is not found on its SR
	CodeDiskEmpty     = "disk-empty"       // a disk has no size
	CodeDiskSharable  = "disk-sharable"    // a disk cannot be snapshotted
	CodeDiskTooLarge  = "disk-too-large"   // for the format of the target SR
	CodeChainLong     = "chain-long"       // too many volumes lie on top of each other
	CodeCoalesce      = "coalesce-pending" // the storage has yet to merge volumes
	CodeVMHostDown    = "vm-host-down"     // the VM runs on a host that is not alive
	CodeVMBlocked     = "snapshot-blocked" // the VM's snapshots are blocked
	CodeVMBusy        = "vm-busy"          // something is done with the VM that excludes a snapshot
	CodeVMSnapshot    = "snapshot-running" // somebody else snapshots the VM now
	CodeLicence       = "licence"          // the licence forbids what a run needs
	CodeLicenceEnded  = "licence-expired"  // a host's licence has expired
	CodeVersion       = "version"          // a host is too old
	CodeUpgrading     = "pool-upgrading"   // the hosts are of several versions
)

// ofDelegates are the codes of what keeps delegates alone from a run.
var ofDelegates = []string{
	CodeImageMissing, CodeImageProtocol, CodeImageUnseen, CodeHostDown, CodeHostDisabled, CodeHostMemory, CodeSRUnseen, CodeTooManyDisks, CodeLicence,
}

// WithoutDelegates reports whether a request that some of these findings stand in the way of could be carried out without delegates:
// no error is about anything else. others are the codes of those that are, too.
func WithoutDelegates(request Request, found []report.Finding, now time.Time, others ...string) bool {
	if slices.ContainsFunc(found, func(f report.Finding) bool {
		return f.Severity == report.SeverityError && !slices.Contains(ofDelegates, f.Code) && !slices.Contains(others, f.Code)
	}) {
		return false
	}
	request.NoDelegates = true
	_, err := MakePlan(request)
	return err == nil && !report.Errors(Readiness(request, now))
}

// Infeasible says why a run cannot begin. Its findings are all that were found, warnings among them.
type Infeasible struct {
	Findings []report.Finding `json:"findings"`
	// Causes are the errors behind some of the findings, for callers that decide on those: errors.Is and errors.As find them.
	Causes []error `json:"-"`
}

func (e *Infeasible) Error() string {
	var texts []string
	for _, finding := range e.Findings {
		if finding.Severity != report.SeverityWarning {
			texts = append(texts, fmt.Sprintf("%s (%s)", finding.Cause, finding.Mend))
		}
	}
	return "something stands in the way: " + strings.Join(texts, "; ")
}

// Unwrap gives the causes.
func (e *Infeasible) Unwrap() []error { return e.Causes }

// findings gathers what is found.
type findings []report.Finding

func (f *findings) error(code, subject, mend, cause string, args ...any) {
	f.add(report.SeverityError, code, subject, mend, cause, args)
}

func (f *findings) warn(code, subject, mend, cause string, args ...any) {
	f.add(report.SeverityWarning, code, subject, mend, cause, args)
}

// add leaves out what is known already: several disks may lie on one SR.
func (f *findings) add(severity report.Severity, code, subject, mend, cause string, args []any) {
	found := report.Finding{Severity: severity, Code: code, Subject: subject, Cause: fmt.Sprintf(cause, args...), Mend: mend}
	if !slices.Contains(*f, found) {
		*f = append(*f, found)
	}
}
