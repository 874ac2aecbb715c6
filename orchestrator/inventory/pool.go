package inventory

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// Keys of other_config that mark a delegate's template (design §6: kind, the object's own uuid, version).
const (
	keyKind    = "understudy:kind"
	keySelf    = "understudy:self"
	keyVersion = "understudy:version"
	// KeyProtocol is the major version of the protocol that an image speaks. An image without it is of an unknown one.
	KeyProtocol = "understudy:protocol"

	kindDelegateTemplate = "delegate-template"
)

// Pool is a pool as it was when it was loaded. Maps are by reference; treat it as read-only once it is shared.
type Pool struct {
	UUID        string
	Name        string // the pool's, or the coordinator's when it has none
	Ref         xapi.Ref
	Coordinator xapi.Ref
	Record      xapi.Pool

	Hosts       map[xapi.Ref]xapi.Host
	HostMetrics map[xapi.Ref]xapi.HostMetrics
	SRs         map[xapi.Ref]xapi.SR
	PBDs        map[xapi.Ref]xapi.PBD
	VMs         map[xapi.Ref]xapi.VM // templates, snapshots and control domains included
	VMMetrics   map[xapi.Ref]xapi.VMMetrics
	VDIs        map[xapi.Ref]xapi.VDI // unmanaged ones included
	VBDs        map[xapi.Ref]xapi.VBD
	VIFs        map[xapi.Ref]xapi.VIF
	Networks    map[xapi.Ref]xapi.Network

	// FreeMemory of each enabled and live host in bytes, as host.compute_free_memory gave it.
	FreeMemory map[xapi.Ref]int64
}

// VM is a VM with its reference.
type VM struct {
	Ref xapi.Ref
	xapi.VM
}

// SR is a storage repository with its reference.
type SR struct {
	Ref xapi.Ref
	xapi.SR
}

// Host is a host with its reference.
type Host struct {
	Ref xapi.Ref
	xapi.Host
	FreeMemory int64 // bytes
}

// Disk is a disk of a VM.
type Disk struct {
	Number int // the VBD's userdevice
	VBDRef xapi.Ref
	VBD    xapi.VBD
	VDIRef xapi.Ref
	VDI    xapi.VDI
}

// Template is a deployed delegate image.
type Template struct {
	VM
	Version  string
	Protocol string // major version of the protocol; empty: not known
	Disks    []Disk
}

// DisksOf lists a VM's disks by position: no CD drives, no empty ones. A record that is missing is an error,
// because a replica without one of the disks is none.
func (p *Pool) DisksOf(vm xapi.Ref) ([]Disk, error) {
	record, ok := p.VMs[vm]
	if !ok {
		return nil, fmt.Errorf("pool %s has no VM %s", p.Name, vm)
	}
	var disks []Disk
	for _, ref := range record.VBDs {
		vbd, ok := p.VBDs[ref]
		if !ok {
			return nil, fmt.Errorf("VM %s lists the VBD %s, which does not exist", record.NameLabel, ref)
		}
		if vbd.Type != xapi.TypeDisk || vbd.Empty || vbd.VDI.IsNull() {
			continue
		}
		vdi, ok := p.VDIs[vbd.VDI]
		if !ok {
			return nil, fmt.Errorf("disk %s of VM %s names the VDI %s, which does not exist: scan its SR or detach it", vbd.UserDevice, record.NameLabel, vbd.VDI)
		}
		number, err := strconv.Atoi(vbd.UserDevice)
		if err != nil || number < 0 {
			return nil, fmt.Errorf("disk %s of VM %s: its position is no number: detach it and attach it at a numbered one", vbd.UserDevice, record.NameLabel)
		}
		disks = append(disks, Disk{Number: number, VBDRef: ref, VBD: vbd, VDIRef: vbd.VDI, VDI: vdi})
	}
	slices.SortFunc(disks, func(a, b Disk) int { return cmp.Compare(a.Number, b.Number) })
	return disks, nil
}

// HostUsable reports whether a host is enabled and alive.
func (p *Pool) HostUsable(host xapi.Ref) bool {
	record, ok := p.Hosts[host]
	return ok && record.Enabled && p.HostMetrics[record.Metrics].Live
}

// HostSees reports whether a host has an SR plugged. SR.shared says nothing about that (xapi-facts §6.7).
func (p *Pool) HostSees(host, sr xapi.Ref) bool {
	for _, pbd := range p.PBDs {
		if pbd.Host == host && pbd.SR == sr && pbd.CurrentlyAttached {
			return true
		}
	}
	return false
}

// HostsSeeing lists the usable hosts that have every one of the SRs plugged, those with the most free memory
// first.
func (p *Pool) HostsSeeing(srs ...xapi.Ref) []Host {
	var hosts []Host
	for ref, record := range p.Hosts {
		blind := func(sr xapi.Ref) bool { return !p.HostSees(ref, sr) }
		if p.HostUsable(ref) && !slices.ContainsFunc(srs, blind) {
			hosts = append(hosts, Host{Ref: ref, Host: record, FreeMemory: p.FreeMemory[ref]})
		}
	}
	slices.SortFunc(hosts, func(a, b Host) int {
		return cmp.Or(cmp.Compare(b.FreeMemory, a.FreeMemory), cmp.Compare(a.UUID, b.UUID))
	})
	return hosts
}

// DelegateTemplates lists the deployed images, the newest version first. A template whose marker names another object is
// somebody's copy and not ours; one without its own uuid was imported by hand. Those without a network interface, which a
// deployment adds last, are left out, and those whose disks cannot be told: neither can be delegates.
func (p *Pool) DelegateTemplates() []Template {
	var templates []Template
	for ref, vm := range p.VMs {
		if !vm.IsATemplate || vm.IsASnapshot || vm.OtherConfig[keyKind] != kindDelegateTemplate {
			continue
		}
		if self := vm.OtherConfig[keySelf]; self != vm.UUID && self != "" || len(vm.VIFs) == 0 {
			continue
		}
		disks, err := p.DisksOf(ref)
		if err != nil || len(disks) == 0 {
			continue
		}
		templates = append(templates, Template{
			VM: VM{Ref: ref, VM: vm}, Version: vm.OtherConfig[keyVersion], Protocol: vm.OtherConfig[KeyProtocol], Disks: disks,
		})
	}
	slices.SortFunc(templates, func(a, b Template) int {
		return cmp.Or(CompareVersions(b.Version, a.Version), cmp.Compare(a.Version, b.Version), cmp.Compare(a.UUID, b.UUID))
	})
	return templates
}

// build is the end of the version of an image that was built from source: the beginning of the hash of its content.
var build = regexp.MustCompile(`-[0-9a-f]{8}$`)

// CompareVersions orders versions such as 1.2.3-rc.1-0123abcd by their numbers, a pre-release before its release. The hash of the
// content says nothing of an order: builds of one version compare as equal, although they are not the same.
func CompareVersions(a, b string) int {
	releaseA, previewA, _ := strings.Cut(build.ReplaceAllString(a, ""), "-")
	releaseB, previewB, _ := strings.Cut(build.ReplaceAllString(b, ""), "-")
	if order := compareParts(releaseA, releaseB); order != 0 || previewA == previewB {
		return order
	}
	switch {
	case previewA == "":
		return 1
	case previewB == "":
		return -1
	}
	return compareParts(previewA, previewB)
}

// compareParts compares dotted texts part by part; a part that is no number comes before those that are.
func compareParts(a, b string) int {
	return slices.CompareFunc(strings.Split(a, "."), strings.Split(b, "."), func(p, q string) int {
		m, errP := strconv.ParseUint(p, 10, 64)
		n, errQ := strconv.ParseUint(q, 10, 64)
		switch {
		case errP == nil && errQ == nil:
			return cmp.Compare(m, n)
		case errP == nil:
			return 1
		case errQ == nil:
			return -1
		}
		return cmp.Compare(p, q)
	})
}
