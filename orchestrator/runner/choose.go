package runner

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// Codes of the findings of this package. They are stable.
const (
	CodeSelectorEmpty   = "selector-empty"   // a selector chooses nothing
	CodeNothingChosen   = "nothing-chosen"   // all of them together choose nothing
	CodeNotChosen       = "not-chosen"       // a VM that was asked for is not among the chosen
	CodeNamesAlike      = "names-alike"      // several replicas would bear one name
	CodePoolUnreachable = "pool-unreachable" // a pool does not answer, or refuses the login
	CodeResumed         = "resumed"          // the run was another process's before
)

// choose resolves selectors on a look at the source pool: what any of them means, but for what one with Exclude means. The VMs come
// by name. exempt are the uuids of VMs that are chosen whatever marker they bear,
// by any selector or, where it says false, by one that names them by their uuid.
func choose(view *inventory.Pool, installation string, exempt map[string]bool, selectors []job.Selector) (chosen []inventory.VM, found []report.Finding) {
	excluded := map[xapi.Ref]bool{}
	all := map[xapi.Ref]inventory.VM{}
	for _, s := range selectors {
		hits, barred := 0, ""
		for ref, vm := range view.VMs {
			if !s.Matches(vm.UUID, vm.NameLabel, vm.Tags) {
				continue
			}
			byAny, anyhow := exempt[vm.UUID]
			if why := bar(installation, vm); why != "" && !byAny && (!anyhow || s.UUID == "") {
				barred = fmt.Sprintf("VM %s (%s) is %s", vm.NameLabel, vm.UUID, why)
				continue
			}
			hits++
			if s.Exclude {
				excluded[ref] = true
			} else {
				all[ref] = inventory.VM{Ref: ref, VM: vm}
			}
		}
		if hits == 0 {
			found = append(found, emptyFinding(view.Name, s, barred)...)
		}
	}
	for ref, vm := range all {
		if !excluded[ref] {
			chosen = append(chosen, vm)
		}
	}
	slices.SortFunc(chosen, func(a, b inventory.VM) int {
		return cmp.Or(strings.Compare(a.NameLabel, b.NameLabel), strings.Compare(a.UUID, b.UUID))
	})
	if len(chosen) == 0 {
		found = append(found, report.Finding{
			Severity: report.SeverityError, Code: CodeNothingChosen, Subject: "pool " + view.Name,
			Cause: "the job's selectors choose no VM: nothing would be replicated", Mend: "change the selectors, or give VMs the names or tags that they look for",
		})
	}
	return chosen, found
}

// emptyFinding is about a selector that chooses nothing. A VM that the job names and that is not there is not protected, which is an
// error; VMs with a tag, or that a pattern fits, may come and go. To exclude what is not there does no harm.
func emptyFinding(pool string, s job.Selector, barred string) []report.Finding {
	one := s.UUID != "" || s.Name != ""
	finding := report.Finding{
		Severity: report.SeverityWarning, Code: CodeSelectorEmpty, Subject: "selector " + s.String(),
		Cause: fmt.Sprintf("pool %s has no VM that it fits", pool), Mend: "change or remove it",
	}
	switch {
	case s.Exclude && !one:
		return nil
	case one && !s.Exclude:
		finding.Severity, finding.Mend = report.SeverityError, "correct it, or remove it when the VM is gone for good"
	}
	if one && barred != "" {
		finding.Cause = barred + ", which no job replicates"
	}
	return []report.Finding{finding}
}

// bar tells why a VM is never chosen; empty when it may be. Markers decide: those of an object that is being made are not complete,
// and a delegate that is bears for a moment those of its template. A copy of one of our objects is somebody's VM, as is a VM that was
// reverted to one of our snapshots; the replicas and delegates of other installations are not.
func bar(installation string, vm xapi.VM) string {
	switch {
	case vm.IsControlDomain:
		return "a control domain"
	case vm.IsASnapshot:
		return "a snapshot"
	case vm.IsATemplate:
		return "a template"
	}
	marker, owner, _ := replica.Read(installation, vm.UUID, vm.OtherConfig) // Malformed is an answer
	delegate := marker.Kind == replica.KindDelegate || marker.Kind == replica.KindDelegateTemplate
	switch {
	case owner == replica.None:
		return ""
	case delegate:
		return "a delegate"
	case owner == replica.Malformed:
		return "an object of Understudy that is being made, or was not finished"
	case owner == replica.Ours || marker.Self == vm.UUID:
		return "a " + strings.ReplaceAll(string(marker.Kind), "-", " ")
	}
	return ""
}

// only keeps those of the chosen that were asked for; none means all.
func only(chosen []inventory.VM, uuids []string) (kept []inventory.VM, found []report.Finding) {
	if len(uuids) == 0 {
		return chosen, nil
	}
	for _, vm := range chosen {
		if slices.Contains(uuids, vm.UUID) {
			kept = append(kept, vm)
		}
	}
	for _, uuid := range uuids {
		if !slices.ContainsFunc(kept, func(vm inventory.VM) bool { return vm.UUID == uuid }) {
			found = append(found, report.Finding{
				Severity: report.SeverityError, Code: CodeNotChosen, Subject: "VM " + uuid,
				Cause: "the job's selectors do not choose it, or not any more", Mend: "run the job without it, or change the selectors",
			})
		}
	}
	return kept, found
}

// namesAlike warns of a pattern that gives several replicas one name.
func namesAlike(pattern string, vms int) []report.Finding {
	if pattern == "" || strings.Contains(pattern, "{vm}") || vms < 2 {
		return nil
	}
	return []report.Finding{{
		Severity: report.SeverityWarning, Code: CodeNamesAlike, Subject: "name pattern " + pattern,
		Cause: fmt.Sprintf("%d replicas would bear this name", vms), Mend: "put {vm}, which stands for the source's name, into the pattern",
	}}
}
