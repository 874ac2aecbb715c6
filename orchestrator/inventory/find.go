package inventory

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// nearLimit is how many similar names an error lists.
const nearLimit = 5

// NotFoundError says that nothing has the name or uuid asked for.
type NotFoundError struct {
	Kind, Name, Pool string
	Near             []string // similar names, the nearest first
}

func (e *NotFoundError) Error() string {
	text := fmt.Sprintf("pool %s has no %s %q", e.Pool, e.Kind, e.Name)
	if len(e.Near) > 0 {
		text += "; similar: " + strings.Join(e.Near, ", ")
	}
	return text
}

// AmbiguousError says that several have the name asked for.
type AmbiguousError struct {
	Kind, Name, Pool string
	UUIDs            []string // sorted
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("pool %s has %d of %s %q: name one by its uuid, %s", e.Pool, len(e.UUIDs), e.Kind, e.Name, strings.Join(e.UUIDs, " or "))
}

// candidate is what a name may mean.
type candidate struct {
	ref        xapi.Ref
	uuid, name string
}

// FindVM finds a VM by its uuid or its exact name. Templates, snapshots and control domains are no VMs here. The
// error is a *NotFoundError or an *AmbiguousError.
func (p *Pool) FindVM(nameOrUUID string) (VM, error) {
	var all []candidate
	for ref, vm := range p.VMs {
		if !vm.IsATemplate && !vm.IsASnapshot && !vm.IsControlDomain {
			all = append(all, candidate{ref, vm.UUID, vm.NameLabel})
		}
	}
	ref, err := p.find("VM", nameOrUUID, all)
	if err != nil {
		return VM{}, err
	}
	return VM{Ref: ref, VM: p.VMs[ref]}, nil
}

// FindSR finds a storage repository for disks by its uuid or its exact name; repositories of ISO images are left
// out. Errors are those of FindVM.
func (p *Pool) FindSR(nameOrUUID string) (SR, error) {
	var all []candidate
	for ref, sr := range p.SRs {
		if sr.ContentType != "iso" && !sr.IsToolsSR {
			all = append(all, candidate{ref, sr.UUID, sr.NameLabel})
		}
	}
	ref, err := p.find("SR", nameOrUUID, all)
	if err != nil {
		return SR{}, err
	}
	return SR{Ref: ref, SR: p.SRs[ref]}, nil
}

// FindNetwork finds a network by its uuid or its exact name. Errors are those of FindVM.
func (p *Pool) FindNetwork(nameOrUUID string) (xapi.Ref, error) {
	var all []candidate
	for ref, network := range p.Networks {
		all = append(all, candidate{ref, network.UUID, network.NameLabel})
	}
	return p.find("network", nameOrUUID, all)
}

// FindHost finds a host by its uuid or its exact name. Errors are those of FindVM.
func (p *Pool) FindHost(nameOrUUID string) (xapi.Ref, error) {
	var all []candidate
	for ref, host := range p.Hosts {
		all = append(all, candidate{ref, host.UUID, host.NameLabel})
	}
	return p.find("host", nameOrUUID, all)
}

// find prefers a uuid to a name, since anybody may name a VM like another's uuid.
func (p *Pool) find(kind, wanted string, all []candidate) (xapi.Ref, error) {
	if i := slices.IndexFunc(all, func(c candidate) bool { return strings.EqualFold(c.uuid, wanted) }); i >= 0 {
		return all[i].ref, nil
	}
	var named []candidate
	for _, c := range all {
		if c.name == wanted {
			named = append(named, c)
		}
	}
	switch len(named) {
	case 0:
		return "", &NotFoundError{Kind: kind, Name: wanted, Pool: p.Name, Near: near(wanted, all)}
	case 1:
		return named[0].ref, nil
	}
	uuids := make([]string, len(named))
	for i, c := range named {
		uuids[i] = c.uuid
	}
	slices.Sort(uuids)
	return "", &AmbiguousError{Kind: kind, Name: wanted, Pool: p.Name, UUIDs: uuids}
}

// near lists the names that contain the wanted one, or are a few typing errors away.
func near(wanted string, all []candidate) []string {
	type scored struct {
		name  string
		score int
	}
	wanted = strings.ToLower(wanted)
	var found []scored
	for _, c := range all {
		name := strings.ToLower(c.name)
		score := distance(wanted, name)
		if wanted != "" && (strings.Contains(name, wanted) || score <= 1+len(wanted)/4) {
			found = append(found, scored{c.name, score})
		}
	}
	slices.SortFunc(found, func(a, b scored) int {
		return cmp.Or(cmp.Compare(a.score, b.score), cmp.Compare(a.name, b.name))
	})
	found = slices.Compact(found)
	names := make([]string, 0, nearLimit)
	for _, s := range found[:min(len(found), nearLimit)] {
		names = append(names, s.name)
	}
	return names
}

// distance is Levenshtein's, over runes: insertions, deletions and substitutions.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	row := make([]int, len(y)+1)
	for j := range row {
		row[j] = j
	}
	for i := range x {
		diagonal := row[0]
		row[0] = i + 1
		for j := range y {
			substituted := diagonal
			if x[i] != y[j] {
				substituted++
			}
			diagonal = row[j+1]
			row[j+1] = min(substituted, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(y)]
}
