package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/runner"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// jobCheckDocument is what a job would do now, and what stands in its way. Its lists are never null.
type jobCheckDocument struct {
	Job      string            `json:"job"` // its name
	ID       string            `json:"id"`
	Ready    bool              `json:"ready"`    // no finding is an error
	Findings []report.Finding  `json:"findings"` // about the job as a whole
	VMs      []vmCheckDocument `json:"vms"`
}

// vmCheckDocument is the part for one VM.
type vmCheckDocument struct {
	VM       report.VM         `json:"vm"`
	Plan     *replication.Plan `json:"plan,omitempty"` // none when nothing can be planned
	Findings []report.Finding  `json:"findings"`
}

func (a *app) jobCheck() *cobra.Command {
	return &cobra.Command{
		Use: "check NAME", Short: "Tell what a job would do now, and what stands in its way", Args: cobra.ExactArgs(1),
		Long: "Resolves the job's selectors, plans a run of each VM, and prints the plans with everything found: errors stand in the\n" +
			"way of a run, warnings do not. Each finding says what mends it. Nothing is changed. With an error the exit code is 3.",
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.session(c.Context())
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // only read
			known, err := s.store.Job(c.Context(), args[0])
			if err != nil {
				return err
			}
			return a.checkJob(c.Context(), s, known, nil)
		},
	}
}

// checkJob prints what a job would do with the VMs of these uuids; none means all.
func (a *app) checkJob(ctx context.Context, s *session, known state.Job, only []string) error {
	found, err := a.runner(s).Check(ctx, known)
	if err != nil {
		return err
	}
	document := checkDocumentOf(known, found, only)
	if err := a.print(document, document.write); err != nil {
		return err
	}
	if !document.Ready {
		return fmt.Errorf("job %s: %w: %s", known.Definition.Name, errFindings, document.counts())
	}
	return nil
}

func checkDocumentOf(known state.Job, found runner.Check, only []string) jobCheckDocument {
	document := jobCheckDocument{
		Job: known.Definition.Name, ID: known.ID,
		Findings: append([]report.Finding{}, found.Findings...), VMs: []vmCheckDocument{},
	}
	for _, vm := range found.VMs {
		if only == nil || slices.Contains(only, vm.VM.UUID) {
			document.VMs = append(document.VMs, vmCheckDocument{VM: vm.VM, Plan: vm.Plan, Findings: append([]report.Finding{}, vm.Findings...)})
		}
	}
	errs, _ := document.count()
	document.Ready = errs == 0
	return document
}

// count counts the findings.
func (d jobCheckDocument) count() (errs, warnings int) {
	all := d.Findings
	for _, vm := range d.VMs {
		all = append(slices.Clip(all), vm.Findings...)
	}
	for _, f := range all {
		if f.Severity == report.SeverityError {
			errs++
		} else {
			warnings++
		}
	}
	return errs, warnings
}

func (d jobCheckDocument) counts() string {
	errs, warnings := d.count()
	return plural(errs, "error") + ", " + plural(warnings, "warning")
}

func (d jobCheckDocument) write(w *strings.Builder) {
	for _, vm := range d.VMs {
		if vm.Plan != nil {
			writePlan(w, *vm.Plan)
		} else {
			fmt.Fprintf(w, "VM %s (%s) of pool %s: nothing can be planned\n", vm.VM.Name, vm.VM.UUID, vm.VM.Pool)
		}
		writeFindings(w, vm.Findings)
		fmt.Fprintln(w)
	}
	writeFindings(w, d.Findings)
	ready := "is ready"
	if !d.Ready {
		ready = "is not ready"
	}
	fmt.Fprintf(w, "job %s %s: %s, %s\n", d.Job, ready, plural(len(d.VMs), "VM"), d.counts())
}
