package xapisim

import "slices"

// upgradeKey is the key of a pool's other_config that says that its hosts are being upgraded one by one. xapi sets it where
// it finds hosts of different versions; here a test does, with pool.add_to_other_config.
const upgradeKey = "rolling_upgrade_in_progress"

// What goes on in a pool that is being upgraded (rpu_allowed_vm_operations and pre_ely_vdi_operations in xen-api
// ocaml/xapi/xapi_globs.ml). VM.snapshot and all of changed block tracking do not.
var (
	upgradeVMOperations = []string{
		"changing_VCPUs_live", "clean_reboot", "clean_shutdown", "clone", "copy", "destroy", "export", "hard_reboot", "hard_shutdown", "import",
		"make_into_template", "migrate_send", "pause", "pool_migrate", "provision", "resume", "resume_on", "start", "start_on", "suspend", "unpause",
	}
	upgradeVDIOperations = []string{
		"clone", "copy", "resize", "resize_online", "snapshot", "destroy", "forget", "update", "generate_config", "blocked",
	}
)

// upgradable refuses an operation that must not begin while the pool is being upgraded.
func (p *Pool) upgradable(operation string, allowed []string) error {
	_, upgrading := p.db.all("pool")[0].table("other_config")[upgradeKey]
	if upgrading && !slices.Contains(allowed, operation) {
		return fail("NOT_SUPPORTED_DURING_UPGRADE")
	}
	return nil
}
