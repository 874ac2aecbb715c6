package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// place chooses the hosts. Where both sides share a pool one delegate is tried first; its failure is no finding,
// since two delegates do as well.
func place(request Request, disks []inventory.Disk, target xapi.SR) ([]Delegate, []Finding) {
	sources := srsOf(disks)
	if request.Source.UUID == request.Target.UUID && 2*len(disks) <= maxDisks {
		needed := sources
		if !slices.Contains(needed, request.TargetSR) {
			needed = append(slices.Clone(needed), request.TargetSR)
		}
		if one, ok := choose(SideBoth, request.Source, needed, nil); ok {
			one.Attachments = attach(SideBoth, request.Source, disks, target)
			return []Delegate{one}, nil
		}
	}
	var delegates []Delegate
	var findings []Finding
	taken := map[string]int64{} // memory that a delegate chosen before takes, by the host's uuid
	for _, part := range []struct {
		side Side
		pool *inventory.Pool
		srs  []xapi.Ref
	}{
		{SideSource, request.Source, sources},
		{SideTarget, request.Target, []xapi.Ref{request.TargetSR}},
	} {
		one, ok := choose(part.side, part.pool, part.srs, taken)
		if !ok {
			findings = append(findings, hostFindings(part.side, part.pool, part.srs, taken)...)
			continue
		}
		taken[one.HostUUID] += one.Memory
		one.Attachments = attach(part.side, request.Source, disks, target)
		delegates = append(delegates, one)
	}
	return delegates, findings
}

// PlaceOne places a delegate that sees the SRs, outside any replication: on a host, or on any for the null reference.
func PlaceOne(pool *inventory.Pool, host xapi.Ref, srs ...xapi.Ref) (Delegate, error) {
	view := *pool
	if !host.IsNull() {
		view.Hosts = map[xapi.Ref]xapi.Host{host: pool.Hosts[host]}
	}
	one, ok := choose(SideBoth, &view, srs, nil)
	if !ok {
		return Delegate{}, &Infeasible{Findings: hostFindings(SideBoth, &view, srs, nil)}
	}
	return one, nil
}

// compatible are the images that speak our protocol, or do not say which, the newest first.
func compatible(pool *inventory.Pool) []inventory.Template {
	return slices.DeleteFunc(pool.DelegateTemplates(), func(t inventory.Template) bool { return !Compatible(t.Protocol) })
}

// Compatible reports whether an image that speaks this major version of the protocol can be used; images that do not say which
// are found out when they have started.
func Compatible(protocol string) bool {
	return protocol == "" || protocol == strconv.Itoa(netproto.VersionMajor)
}

// choose takes the newest image that a fitting host sees, and of such hosts the one with the most free memory.
func choose(side Side, pool *inventory.Pool, srs []xapi.Ref, taken map[string]int64) (Delegate, bool) {
	templates := compatible(pool)
	for i := 0; i < len(templates); {
		same := i
		var best inventory.Host
		var image inventory.Template
		for ; same < len(templates) && templates[same].Version == templates[i].Version; same++ {
			for _, host := range pool.HostsSeeing(append(srsOf(templates[same].Disks), srs...)...) {
				host.FreeMemory -= taken[host.UUID]
				if host.FreeMemory >= memoryOf(templates[same]) && (best.Ref == "" || host.FreeMemory > best.FreeMemory) {
					best, image = host, templates[same]
				}
			}
		}
		if best.Ref != "" {
			return Delegate{
				Side: side, PoolUUID: pool.UUID, PoolName: pool.Name,
				HostRef: best.Ref, HostUUID: best.UUID, HostName: best.NameLabel,
				TemplateRef: image.Ref, TemplateUUID: image.UUID, TemplateVersion: image.Version,
				Memory: memoryOf(image),
			}, true
		}
		i = same
	}
	return Delegate{}, false
}

// memoryOf is what a host needs free to start a clone of the image, in bytes.
func memoryOf(template inventory.Template) int64 {
	return template.MemoryStaticMax + template.MemoryOverhead
}

// hostFindings says of every host why it will not do.
func hostFindings(side Side, pool *inventory.Pool, srs []xapi.Ref, taken map[string]int64) []Finding {
	templates := compatible(pool)
	if unfit := pool.DelegateTemplates(); len(templates) == 0 && len(unfit) > 0 {
		return []Finding{{
			Cause: fmt.Sprintf("the delegate image of pool %s, version %s, speaks another version of the protocol", pool.Name, unfit[0].Version),
			Mend:  "deploy the image that came with this version of understudy: 'understudy delegate deploy --upgrade'",
		}}
	}
	if len(templates) == 0 {
		return []Finding{{
			Cause: fmt.Sprintf("pool %s has no delegate image", pool.Name),
			Mend:  "deploy one to an SR that the hosts see: 'understudy delegate deploy'",
		}}
	}
	if len(pool.Hosts) == 0 {
		return []Finding{{Cause: fmt.Sprintf("pool %s has no host", pool.Name), Mend: "read the pool's inventory again"}}
	}
	var findings []Finding
	hosts := make([]inventory.Host, 0, len(pool.Hosts))
	for ref, record := range pool.Hosts {
		hosts = append(hosts, inventory.Host{Ref: ref, Host: record, FreeMemory: pool.FreeMemory[ref] - taken[record.UUID]})
	}
	slices.SortFunc(hosts, func(a, b inventory.Host) int {
		return cmp.Or(cmp.Compare(a.NameLabel, b.NameLabel), cmp.Compare(a.UUID, b.UUID))
	})
	for _, host := range hosts {
		finding := hostFinding(pool, host, srs, templates)
		finding.Cause = fmt.Sprintf("host %s of pool %s cannot run the %s delegate: %s", host.NameLabel, pool.Name, side, finding.Cause)
		findings = append(findings, finding)
	}
	return findings
}

func hostFinding(pool *inventory.Pool, host inventory.Host, srs []xapi.Ref, templates []inventory.Template) Finding {
	name := func(sr xapi.Ref) string { return fmt.Sprintf("SR %s (%s)", pool.SRs[sr].NameLabel, pool.SRs[sr].UUID) }
	unplugged := func(srs []xapi.Ref) []string {
		var names []string
		for _, sr := range srs {
			if !pool.HostSees(host.Ref, sr) {
				names = append(names, name(sr))
			}
		}
		return names
	}
	switch {
	case !pool.HostMetrics[host.Metrics].Live:
		return Finding{"it is not alive", "bring it back"}
	case !host.Enabled:
		return Finding{"it is in maintenance", "enable it"}
	}
	if missing := unplugged(srs); len(missing) > 0 {
		return Finding{"it does not see " + strings.Join(missing, ", "), "plug the SR's PBD on this host"}
	}
	needed := int64(-1)
	var images []string
	for _, template := range templates {
		if missing := unplugged(srsOf(template.Disks)); len(missing) > 0 {
			images = append(images, missing...)
		} else if needed < 0 || memoryOf(template) < needed {
			needed = memoryOf(template)
		}
	}
	if needed < 0 {
		slices.Sort(images)
		return Finding{"it does not see " + strings.Join(slices.Compact(images), ", ") + " with the delegate image",
			"deploy the image to an SR that this host sees"}
	}
	return Finding{fmt.Sprintf("it has %d MiB of memory free, a delegate needs %d MiB", host.FreeMemory>>20, needed>>20), "free memory on it"}
}
