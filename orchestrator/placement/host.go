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
func place(request Request, disks []inventory.Disk, found *findings) []Delegate {
	sources, targets := srsOf(disks), request.targetSRs(disks)
	if request.Source.UUID == request.Target.UUID && 2*len(disks) <= maxDisks {
		if one, ok := choose(SideBoth, request.Source, append(slices.Clone(sources), targets...), nil); ok {
			one.Attachments = attach(SideBoth, request, disks)
			return []Delegate{one}
		}
	}
	var delegates []Delegate
	taken := map[string]int64{} // memory that a delegate chosen before takes, by the host's uuid
	for _, part := range []struct {
		side Side
		pool *inventory.Pool
		srs  []xapi.Ref
	}{
		{SideSource, request.Source, sources},
		{SideTarget, request.Target, targets},
	} {
		one, ok := choose(part.side, part.pool, part.srs, taken)
		if !ok {
			found.hosts(part.side, part.pool, part.srs, taken)
			continue
		}
		taken[one.HostUUID] += one.Memory
		one.Attachments = attach(part.side, request, disks)
		delegates = append(delegates, one)
	}
	return delegates
}

// PlaceOne places a delegate that sees the SRs, outside any replication: on a host, or on any for the null reference.
func PlaceOne(pool *inventory.Pool, host xapi.Ref, srs ...xapi.Ref) (Delegate, error) {
	view := *pool
	if !host.IsNull() {
		view.Hosts = map[xapi.Ref]xapi.Host{host: pool.Hosts[host]}
	}
	one, ok := choose(SideBoth, &view, srs, nil)
	if !ok {
		var found findings
		found.hosts(SideBoth, &view, srs, nil)
		return Delegate{}, &Infeasible{Findings: found}
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

// hosts says of every host why it will not do.
func (f *findings) hosts(side Side, pool *inventory.Pool, srs []xapi.Ref, taken map[string]int64) {
	templates, subject := compatible(pool), "pool "+pool.Name
	unfit := pool.DelegateTemplates()
	switch {
	case len(templates) == 0 && len(unfit) > 0:
		f.error(CodeImageProtocol, subject, "deploy the image that came with this version of understudy: 'understudy delegate deploy --upgrade'",
			"the delegate image of pool %s, version %s, speaks another version of the protocol", pool.Name, unfit[0].Version)
		return
	case len(templates) == 0:
		f.error(CodeImageMissing, subject, "deploy one to an SR that the hosts see: 'understudy delegate deploy'", "pool %s has no delegate image", pool.Name)
		return
	case len(pool.Hosts) == 0:
		f.error(CodeNoHost, subject, "read the pool's inventory again", "pool %s has no host", pool.Name)
		return
	}
	hosts := make([]inventory.Host, 0, len(pool.Hosts))
	for ref, record := range pool.Hosts {
		hosts = append(hosts, inventory.Host{Ref: ref, Host: record, FreeMemory: pool.FreeMemory[ref] - taken[record.UUID]})
	}
	slices.SortFunc(hosts, func(a, b inventory.Host) int {
		return cmp.Or(cmp.Compare(a.NameLabel, b.NameLabel), cmp.Compare(a.UUID, b.UUID))
	})
	for _, host := range hosts {
		code, mend, cause := hostFinding(pool, host, srs, templates)
		f.error(code, "host "+host.NameLabel, mend, "host %s of pool %s cannot run the %s delegate: %s", host.NameLabel, pool.Name, side, cause)
	}
}

func hostFinding(pool *inventory.Pool, host inventory.Host, srs []xapi.Ref, templates []inventory.Template) (code, mend, cause string) {
	unplugged := func(srs []xapi.Ref) []string {
		var names []string
		for _, sr := range srs {
			if !pool.HostSees(host.Ref, sr) {
				names = append(names, srSubject(pool.SRs[sr]))
			}
		}
		return names
	}
	switch {
	case !pool.HostMetrics[host.Metrics].Live:
		return CodeHostDown, "bring it back", "it is not alive"
	case !host.Enabled:
		return CodeHostDisabled, "enable it", "it is in maintenance"
	}
	if missing := unplugged(srs); len(missing) > 0 {
		return CodeSRUnseen, "plug the SR's PBD on this host", "it does not see " + strings.Join(missing, ", ")
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
		return CodeImageUnseen, "deploy the image to an SR that this host sees",
			"it does not see " + strings.Join(slices.Compact(images), ", ") + " with the delegate image"
	}
	return CodeHostMemory, "free memory on it",
		fmt.Sprintf("it has %d MiB of memory free, a delegate needs %d MiB", host.FreeMemory>>20, needed>>20)
}

func srSubject(sr xapi.SR) string { return fmt.Sprintf("SR %s (%s)", sr.NameLabel, sr.UUID) }
