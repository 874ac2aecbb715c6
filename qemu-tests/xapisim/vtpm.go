package xapisim

import "strings"

var vtpmCalls = map[string]handler{
	"VTPM.create":  vtpmCreate,
	"VTPM.destroy": vtpmDestroy,
}

// vtpmCreate gives a halted VM its only TPM, where the licence has the feature (xen-api ocaml/xapi/xapi_vtpm.ml).
func vtpmCreate(c *call) (any, error) {
	vm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	if err := c.licensed("VTPM"); err != nil {
		return nil, err
	}
	var made *object
	err = c.onVM(vm, "create_vtpm", func() error {
		made = c.db.insert("VTPM", map[string]any{"VM": vm.ref, "is_unique": c.boolean(1)})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return made.ref, nil
}

func vtpmDestroy(c *call) (any, error) {
	vtpm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	if vm := c.db.find("VM", vtpm.text("VM")); vm != nil {
		if state := strings.ToLower(vm.text("power_state")); state != "halted" && state != "suspended" {
			return nil, fail("VM_BAD_POWER_STATE", vm.ref, "halted; suspended", state)
		}
	}
	c.db.remove(vtpm)
	return nil, nil
}
