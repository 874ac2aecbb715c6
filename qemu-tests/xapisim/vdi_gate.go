package xapisim

import (
	"slices"
)

// vdiOperation is a row of xapi's gate for VDI operations (xapi-facts §6.6; xen-api ocaml/xapi/xapi_vdi.ml,
// check_operation_error).
type vdiOperation struct {
	live     bool     // goes on a disk that is attached in whatever way
	read     bool     // goes on a disk that is attached read-only
	metadata bool     // goes on a VDI whose data is destroyed
	plugged  bool     // goes only where the SR is plugged somewhere; others find out when they run
	needs    []string // types of SR whose driver can do it; none means every one
	check    func(p *Pool, vdi *object) error
}

// Types of SR by what their drivers can do. Disks in volumes of VHD are all but those of CDs and of whole devices.
var (
	diskTypes = []string{"nfs", "ext", "smb", "file", "xfs", "zfs", "lvm", "lvmoiscsi", "lvmohba"}
	cbtTypes  = []string{"nfs", "ext", "smb", "file", "lvm", "lvmoiscsi", "lvmohba"} // xapi-facts §11
)

var vdiOperations = map[string]vdiOperation{
	"copy": {read: true, check: func(_ *Pool, vdi *object) error { return persistent(vdi) }},
	"snapshot": {live: true, needs: diskTypes, check: func(_ *Pool, vdi *object) error {
		if vdi.boolean("sharable") {
			return fail("VDI_IS_SHARABLE", vdi.ref)
		}
		if err := persistent(vdi); err != nil {
			return err
		}
		if _, copied := valueKeys(vdi.table("current_operations"))["copy"]; copied {
			return fail("OPERATION_NOT_ALLOWED", "Snapshot operation not allowed during copy.")
		}
		return nil
	}},
	"clone":           {live: true, needs: diskTypes},
	"resize":          {needs: diskTypes, plugged: true},
	"resize_online":   {live: true, needs: diskTypes},
	"generate_config": {metadata: true},
	"forget":          {metadata: true},
	"update":          {metadata: true},
	"destroy":         {metadata: true},
	"set_on_boot": {needs: diskTypes, check: func(_ *Pool, vdi *object) error {
		if vdi.boolean("cbt_enabled") {
			return fail("VDI_CBT_ENABLED", vdi.ref)
		}
		return nil
	}},
	"enable_cbt":          {live: true, needs: cbtTypes, check: trackable},
	"disable_cbt":         {live: true, needs: cbtTypes, check: trackable},
	"list_changed_blocks": {metadata: true, needs: cbtTypes},
	"data_destroy": {live: true, metadata: true, needs: cbtTypes, check: func(_ *Pool, vdi *object) error {
		switch {
		case !vdi.boolean("is_a_snapshot"):
			return fail("OPERATION_NOT_ALLOWED", "VDI is not a snapshot: "+vdi.ref)
		case !vdi.boolean("cbt_enabled"):
			return fail("VDI_NO_CBT_METADATA", vdi.ref)
		}
		return nil
	}},
}

// shownOperations is the order in which allowed_operations lists them (transcripts).
var shownOperations = []string{"copy", "generate_config", "clone", "resize_online", "forget", "update", "resize", "snapshot", "destroy"}

// persistent refuses a disk that is reset at each boot.
func persistent(vdi *object) error {
	if vdi.text("on_boot") == "reset" {
		return fail("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
	}
	return nil
}

// trackable tells whether changed block tracking can be switched on a VDI.
func trackable(_ *Pool, vdi *object) error {
	if vdi.boolean("is_a_snapshot") {
		return fail("OPERATION_NOT_ALLOWED", "VDI is a snapshot: "+vdi.ref)
	}
	if kind := vdi.text("type"); kind != "user" && kind != "system" {
		return fail("VDI_INCOMPATIBLE_TYPE", vdi.ref, kind)
	}
	return persistent(vdi)
}

// attachments are the VBDs through which a VDI is attached now.
func (p *Pool) attachments(vdi *object) []*object {
	return slices.DeleteFunc(p.db.refs(vdi, "VBDs", "VBD"), func(vbd *object) bool { return !vbd.boolean("currently_attached") })
}

func (p *Pool) written(vdi *object) bool {
	return slices.ContainsFunc(p.attachments(vdi), func(vbd *object) bool { return vbd.text("mode") == "RW" })
}

func (p *Pool) vdiAllowed(vdi *object) []string {
	out := []string{}
	if len(vdi.table("current_operations")) > 0 || vdi.boolean("missing") || !vdi.boolean("managed") {
		return out
	}
	for _, name := range shownOperations {
		if p.gateVDI(vdi, name) == nil {
			out = append(out, name)
		}
	}
	return out
}

// gateVDI is the check before an operation on a VDI, in xapi's order: upgrade, concurrency, attachment, what the SR's driver can,
// the kind of VDI, the operation's own conditions.
func (p *Pool) gateVDI(vdi *object, name string) error {
	if err := alive(vdi); err != nil {
		return err
	}
	if err := p.upgradable(name, upgradeVDIOperations); err != nil {
		return err
	}
	if err := busy(vdi, "copy"); err != nil {
		return err
	}
	op := vdiOperations[name]
	if sr := p.db.find("SR", vdi.text("SR")); op.plugged && (sr == nil || !p.plugged(sr, "")) {
		return fail("SR_NO_PBDS", vdi.text("SR"))
	}
	if err := p.unattached(vdi, name, op); err != nil {
		return err
	}
	if sr := p.db.find("SR", vdi.text("SR")); op.needs != nil && (sr == nil || !slices.Contains(op.needs, sr.text("type"))) {
		return fail("SR_OPERATION_NOT_SUPPORTED", vdi.text("SR"))
	}
	if kind := vdi.text("type"); kind == "cbt_metadata" && !op.metadata {
		return fail("VDI_INCOMPATIBLE_TYPE", vdi.ref, kind)
	}
	if op.check != nil {
		return op.check(p, vdi)
	}
	return nil
}

// unattached refuses an operation that a VBD stands in the way of.
func (p *Pool) unattached(vdi *object, name string, op vdiOperation) error {
	for _, vbd := range p.attachments(vdi) {
		snapshots := false // list_changed_blocks overlooks VBDs of snapshots: those of a checkpoint may seem attached
		if vm := p.db.find("VM", vbd.text("VM")); vm != nil && name == "list_changed_blocks" {
			snapshots = vm.boolean("is_a_snapshot")
		}
		if !op.live && !snapshots && !(op.read && vbd.text("mode") == "RO") {
			return fail("VDI_IN_USE", vdi.ref, name)
		}
	}
	if name == "data_destroy" {
		return nil // it waits for them itself
	}
	for _, vbd := range p.db.refs(vdi, "VBDs", "VBD") {
		for task, operation := range vbd.table("current_operations") {
			return fail("OTHER_OPERATION_IN_PROGRESS", "VDI", vdi.ref, operation, task)
		}
	}
	return nil
}

// onVDI carries out an operation of a VDI: first the VDI is taken, then its SR, always in this order.
func (c *call) onVDI(vdi *object, operation string, sr *object, srOperation string, run func() error) error {
	return c.holdVDI(vdi, operation, func() error { return c.onSR(sr, srOperation, run) })
}

// holdVDI carries out an operation that takes a VDI and not its SR.
func (c *call) holdVDI(vdi *object, operation string, run func() error) error {
	if err := c.admit(func() error { return c.gateVDI(vdi, operation) }); err != nil {
		return err
	}
	if !vdi.boolean("managed") {
		return fail("VDI_NOT_MANAGED", vdi.ref)
	}
	defer c.begin(vdi, operation)()
	return run()
}

// onVDIAlone runs an operation of the VDI that is the first argument, and of nothing else.
func onVDIAlone(c *call, operation string, run func(vdi *object) error) (any, error) {
	vdi, err := c.object(0)
	if err != nil {
		return nil, err
	}
	return nil, c.holdVDI(vdi, operation, func() error { return run(vdi) })
}
