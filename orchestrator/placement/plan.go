package placement

import (
	"fmt"
	"maps"
	"slices"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// Side is where something belongs.
type Side string

// Sides. A delegate that serves both is SideBoth.
const (
	SideSource Side = "source"
	SideTarget Side = "target"
	SideBoth   Side = "both"
)

// Direction says which delegate dials the other.
type Direction string

// Directions: with push the source's delegate dials the target's, with pull the other way round.
const (
	Push Direction = "push"
	Pull Direction = "pull"
)

const (
	// firstDevice is the lowest position for hot-plugged disks: the first four also belong to the emulated IDE
	// controller (xapi-facts §8.1).
	firstDevice = 4
	// maxDisks keeps a delegate below the 255 positions that an HVM guest has (xapi-facts §8.1).
	maxDisks = 250
)

// Request is what is to be replicated, and between what.
type Request struct {
	Source    *inventory.Pool
	SourceVM  xapi.Ref
	Target    *inventory.Pool  // may be the same pool: uuids decide
	TargetSR  xapi.Ref         // takes the disks
	DiskSRs   map[int]xapi.Ref // takes single ones instead, by the number of the source disk
	Direction Direction
	// NoDelegates: the pools' own export and import move the disks. No host has to run anything, nor to see more than one SR; each SR
	// is enough on some host.
	NoDelegates bool
	// Existing are the disks that the replica already has in the target pool, by the number of the source disk. They stay on
	// the SR that they are on.
	Existing map[int]xapi.Ref
}

// targetSR is where the replica of a disk lies, or will lie.
func (r Request) targetSR(disk int) xapi.Ref {
	if vdi, ok := r.Target.VDIs[r.Existing[disk]]; ok {
		return vdi.SR
	}
	if sr, ok := r.DiskSRs[disk]; ok {
		return sr
	}
	return r.TargetSR
}

// targetSRs lists the SRs that the replica's disks lie on, each once.
func (r Request) targetSRs(disks []inventory.Disk) []xapi.Ref {
	var srs []xapi.Ref
	for _, disk := range disks {
		if sr := r.targetSR(disk.Number); !slices.Contains(srs, sr) {
			srs = append(srs, sr)
		}
	}
	if len(srs) == 0 {
		srs = []xapi.Ref{r.TargetSR}
	}
	return srs
}

// existing is the virtual size of the replica's disk in bytes, 0 when there is none.
func (r Request) existing(disk int) int64 { return r.Target.VDIs[r.Existing[disk]].VirtualSize }

// Plan is a placement that can be carried out.
type Plan struct {
	VMUUID    string     `json:"vm_uuid"`
	VMName    string     `json:"vm_name"`
	Delegates []Delegate `json:"delegates"` // one of SideBoth, or SideSource and SideTarget in this order; none where none are wanted
	Dialer    Side       `json:"dialer"`    // SideBoth with one delegate or none: nobody dials
	Disks     []Disk     `json:"disks"`     // by number
	Space     []Space    `json:"space"`     // one for each SR that must have room
}

// Disk is a disk to replicate.
type Disk struct {
	Number   int    `json:"number"` // the VBD's userdevice in the source VM
	Name     string `json:"name"`
	VDIUUID  string `json:"vdi_uuid"`
	SRUUID   string `json:"sr_uuid"`
	TargetSR string `json:"target_sr_uuid"`
	Size     int64  `json:"size"`     // virtual size in bytes
	Existing int64  `json:"existing"` // virtual size of the replica's disk in bytes, 0 when there is none
}

// Delegate is one appliance VM: where it runs and what it gets.
type Delegate struct {
	Side            Side         `json:"side"`
	PoolUUID        string       `json:"pool_uuid"`
	PoolName        string       `json:"pool_name"`
	HostRef         xapi.Ref     `json:"host_ref"`
	HostUUID        string       `json:"host_uuid"`
	HostName        string       `json:"host_name"`
	TemplateRef     xapi.Ref     `json:"template_ref"`
	TemplateUUID    string       `json:"template_uuid"`
	TemplateVersion string       `json:"template_version"`
	Memory          int64        `json:"memory"` // bytes that its host must have free
	Attachments     []Attachment `json:"attachments"`
}

// Attachment is a disk plugged into a delegate: a clone of the source's snapshot, or the replica's disk.
type Attachment struct {
	Disk       int    `json:"disk"` // Disk.Number
	Side       Side   `json:"side"` // SideSource: to read, SideTarget: to write
	SRUUID     string `json:"sr_uuid"`
	UserDevice int    `json:"userdevice"` // position in the delegate
}

// MakePlan places the delegates of one replication. One delegate serves both sides when the pools are one and a
// host sees all SRs; else there is one a side. An impossible request gives an *Infeasible with every finding,
// other errors mean that the request itself makes no sense.
func MakePlan(request Request) (Plan, error) {
	vm, ok := request.Source.VMs[request.SourceVM]
	if !ok {
		return Plan{}, fmt.Errorf("pool %s has no VM %s", request.Source.Name, request.SourceVM)
	}
	for _, sr := range append(slices.Collect(maps.Values(request.DiskSRs)), request.TargetSR) {
		if _, ok := request.Target.SRs[sr]; !ok {
			return Plan{}, fmt.Errorf("pool %s has no SR %s", request.Target.Name, sr)
		}
	}
	if request.Direction != Push && request.Direction != Pull {
		return Plan{}, fmt.Errorf("direction %q is neither %q nor %q", request.Direction, Push, Pull)
	}
	disks, err := request.Source.DisksOf(request.SourceVM)
	if err != nil {
		return Plan{}, err
	}

	var found findings
	found.disks(request.Source, vm, disks, !request.NoDelegates)
	delegates := []Delegate{}
	if !request.NoDelegates {
		delegates = place(request, disks, &found)
	}
	space := spaceNeeded(request, disks, &found)
	if len(found) > 0 {
		return Plan{}, &Infeasible{Findings: found}
	}

	plan := Plan{VMUUID: vm.UUID, VMName: vm.NameLabel, Delegates: delegates, Dialer: SideBoth, Space: space}
	if len(delegates) == 2 {
		plan.Dialer = map[Direction]Side{Push: SideSource, Pull: SideTarget}[request.Direction]
	}
	for _, disk := range disks {
		plan.Disks = append(plan.Disks, Disk{
			Number: disk.Number, Name: disk.VDI.NameLabel, VDIUUID: disk.VDI.UUID, SRUUID: request.Source.SRs[disk.VDI.SR].UUID,
			TargetSR: request.Target.SRs[request.targetSR(disk.Number)].UUID,
			Size:     disk.VDI.VirtualSize, Existing: request.existing(disk.Number),
		})
	}
	return plan, nil
}

// disks are the reasons that lie in the VM's disks; delegates tells whether they are to be attached to some.
func (f *findings) disks(pool *inventory.Pool, vm xapi.VM, disks []inventory.Disk, delegates bool) {
	subject := "VM " + vm.NameLabel
	switch {
	case len(disks) == 0:
		f.error(CodeNoDisk, subject, "attach a disk, or choose another VM", "VM %s has no disk", vm.NameLabel)
	case len(disks) > maxDisks && delegates:
		f.error(CodeTooManyDisks, subject, "detach some of them", "VM %s has %d disks, a delegate takes %d", vm.NameLabel, len(disks), maxDisks)
	}
	for _, disk := range disks {
		name := diskSubject(vm, disk)
		switch _, known := pool.SRs[disk.VDI.SR]; {
		case !known:
			f.error(CodeDiskSR, name, "scan or repair the storage", "%s is on an SR that does not exist", name)
		case disk.VDI.Missing:
			f.error(CodeDiskMissing, name, "scan the SR, and detach the disk if it is lost", "%s is missing on its SR", name)
		case disk.VDI.VirtualSize <= 0:
			f.error(CodeDiskEmpty, name, "scan the SR", "%s has the size %d", name, disk.VDI.VirtualSize)
		case disk.VDI.Sharable:
			f.error(CodeDiskSharable, name, "detach it: a shared disk cannot be snapshotted", "%s is sharable", name)
		}
	}
}

func diskSubject(vm xapi.VM, disk inventory.Disk) string {
	return fmt.Sprintf("disk %d (%s) of VM %s", disk.Number, disk.VDI.NameLabel, vm.NameLabel)
}

// attach numbers a delegate's disks: those it reads first, then those it writes.
func attach(side Side, request Request, disks []inventory.Disk) []Attachment {
	var attachments []Attachment
	add := func(number int, side Side, sr string) {
		attachments = append(attachments, Attachment{Disk: number, Side: side, SRUUID: sr, UserDevice: firstDevice + len(attachments)})
	}
	if side != SideTarget {
		for _, disk := range disks {
			add(disk.Number, SideSource, request.Source.SRs[disk.VDI.SR].UUID)
		}
	}
	if side != SideSource {
		for _, disk := range disks {
			add(disk.Number, SideTarget, request.Target.SRs[request.targetSR(disk.Number)].UUID)
		}
	}
	return attachments
}

// srsOf lists the SRs of disks, each once.
func srsOf(disks []inventory.Disk) []xapi.Ref {
	var srs []xapi.Ref
	for _, disk := range disks {
		if !slices.Contains(srs, disk.VDI.SR) {
			srs = append(srs, disk.VDI.SR)
		}
	}
	return srs
}
