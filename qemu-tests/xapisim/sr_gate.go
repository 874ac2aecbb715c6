package xapisim

import "slices"

// srOperations are those that allowed_operations can list, in xapi's order. Operations of changed block tracking have their
// own gate in vdi_gate.go, because the recorded drivers had none.
var srOperations = []string{
	"vdi_introduce", "unplug", "plug", "pbd_create", "update", "pbd_destroy", "vdi_resize", "vdi_clone", "scan",
	"vdi_snapshot", "vdi_mirror", "vdi_create", "vdi_destroy", "vdi_set_on_boot", "forget", "destroy",
}

// beyondISO are the operations that the driver of an SR of discs cannot do (transcripts).
var beyondISO = []string{
	"vdi_introduce", "update", "vdi_resize", "vdi_snapshot", "vdi_mirror", "vdi_set_on_boot",
}

// gateSR is the check before an operation on an SR, in xapi's order: what its driver can, for an SR that is to go what still
// holds it, then concurrency (xen-api ocaml/xapi/xapi_sr_operations.ml, valid_operations).
func (p *Pool) gateSR(sr *object, operation string) error {
	if err := alive(sr); err != nil {
		return err
	}
	if sr.text("type") == "iso" && slices.Contains(beyondISO, operation) {
		return fail("SR_OPERATION_NOT_SUPPORTED", sr.ref)
	}
	if operation == "forget" || operation == "destroy" {
		if err := p.removable(sr, operation == "destroy"); err != nil {
			return err
		}
	}
	if operation == "plug" {
		return busy(sr, "plug")
	}
	return busy(sr)
}

// removable tells what holds an SR that is to be forgotten or destroyed.
func (p *Pool) removable(sr *object, destroy bool) error {
	pbds := p.db.refs(sr, "PBDs", "PBD")
	switch {
	case slices.ContainsFunc(pbds, func(pbd *object) bool { return pbd.boolean("currently_attached") }):
		return fail("SR_HAS_PBD", sr.ref)
	case !destroy:
		return nil
	case len(pbds) == 0:
		return fail("SR_NO_PBDS", sr.ref)
	case slices.ContainsFunc(p.db.refs(sr, "VDIs", "VDI"), func(vdi *object) bool { return vdi.boolean("managed") && vdi.text("type") != "rrd" }):
		return fail("SR_NOT_EMPTY")
	}
	return nil
}

func srAllowed(p *Pool, sr *object) any {
	out := []string{}
	for _, operation := range srOperations {
		if p.gateSR(sr, operation) == nil {
			out = append(out, operation)
		}
	}
	return out
}
