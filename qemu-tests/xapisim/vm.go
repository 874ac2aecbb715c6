package xapisim

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// operation is a row of xapi's gate for VM operations (xapi-facts §6.2).
type operation struct {
	states    []string // power states that accept it; none means any
	suspended bool     // a suspended snapshot accepts it, too, and where the pool says so every suspended VM
	control   bool     // a running control domain accepts it, too
	template  bool     // allowed on a template that is no snapshot
	snapshot  bool     // allowed on a snapshot
	besides   []string // operations that may be going on at the same time; "*" stands for all but itself and those with a "!"
	here      bool     // carried out by the host that the VM is resident on
	guest     []string // features of which the guest must announce one, where it has no known drivers
	whole     bool     // takes all disks and devices along: not with VUSBs, nor with disks that are reset at boot
	shown     []string // power states in which allowed_operations lists it, where the gate accepts more
}

// anythingButHard may go on when a VM is rebooted by force.
var anythingButHard = []string{"*", "!hard_shutdown"}

// longCopies may go on beside each other.
var longCopies = []string{"clone", "copy", "export"}

var vmOperations = map[string]operation{
	"start":                  {states: []string{"Halted"}},
	"start_on":               {states: []string{"Halted"}},
	"provision":              {states: []string{"Halted"}, template: true},
	"make_into_template":     {states: []string{"Halted"}},
	"changing_VCPUs":         {states: []string{"Halted"}, control: true, template: true, shown: []string{}},
	"changing_static_range":  {states: []string{"Halted"}, control: true, template: true},
	"changing_dynamic_range": {states: []string{"Halted", "Running"}, template: true},
	"changing_memory_limits": {states: []string{"Halted"}, control: true, template: true, shown: []string{}},
	"changing_NVRAM":         {states: []string{"Halted"}, template: true},
	"changing_shadow_memory": {states: []string{"Halted"}, template: true},
	"changing_VCPUs_live":    {states: []string{"Running"}},
	"sysprep":                {states: []string{"Running"}},
	"clone":                  {states: []string{"Halted"}, suspended: true, template: true, snapshot: true, besides: longCopies},
	"copy":                   {states: []string{"Halted"}, suspended: true, template: true, snapshot: true, besides: longCopies},
	"export":                 {states: []string{"Halted", "Suspended"}, template: true, snapshot: true, besides: longCopies},
	"metadata_export":        {template: true, snapshot: true, besides: []string{"migrate_send"}},
	"migrate_send":           {states: []string{"Halted", "Suspended", "Running"}, template: true, guest: []string{"feature-suspend"}},
	"pool_migrate":           {states: []string{"Running"}, guest: []string{"feature-suspend"}},
	"checkpoint": {
		states: []string{"Paused", "Suspended", "Running"}, guest: []string{"feature-suspend"}, whole: true,
		besides: []string{"snapshot", "checkpoint"},
	},
	"clean_reboot":   {states: []string{"Running"}, here: true, guest: []string{"feature-shutdown", "feature-reboot"}},
	"hard_reboot":    {states: []string{"Paused", "Running"}, here: true, besides: anythingButHard},
	"suspend":        {states: []string{"Running"}, here: true, guest: []string{"feature-suspend"}, whole: true},
	"resume":         {states: []string{"Suspended"}},
	"resume_on":      {states: []string{"Suspended"}},
	"create_vtpm":    {states: []string{"Halted"}},
	"destroy":        {states: []string{"Halted", "Suspended"}, template: true, snapshot: true},
	"clean_shutdown": {states: []string{"Running"}, here: true, guest: []string{"feature-shutdown", "feature-poweroff"}},
	"pause":          {states: []string{"Running"}, here: true},
	"unpause":        {states: []string{"Paused"}, here: true},
	"hard_shutdown":  {states: []string{"Paused", "Suspended", "Running"}, snapshot: true, here: true, besides: []string{"*"}},
	"snapshot":       {here: true, whole: true, besides: []string{"snapshot", "checkpoint"}},
	"revert":         {snapshot: true},
}

// gateVM is the check before an operation on a VM, in xapi's order: blocked, power state, concurrency, template,
// snapshot (xapi-facts §6.2).
func (p *Pool) gateVM(vm *object, name string) error {
	if err := alive(vm); err != nil {
		return err
	}
	op := vmOperations[name]
	if reason, blocked := vm.table("blocked_operations")[name]; blocked {
		return fail("OPERATION_BLOCKED", vm.ref, reason)
	}
	state, snapshot := vm.text("power_state"), vm.boolean("is_a_snapshot")
	accepted := op.suspended && state == "Suspended" && (snapshot || p.db.all("pool")[0].table("other_config")["allow_clone_suspended_vm"] == "true") || op.control && vm.boolean("is_control_domain") && state == "Running"
	if op.states != nil && !accepted && !slices.Contains(op.states, state) {
		return fail("VM_BAD_POWER_STATE", vm.ref, strings.ToLower(strings.Join(op.states, ", ")), strings.ToLower(state))
	}
	if !op.concurrent(name, operationsOf(vm)) {
		return conflict(vm)
	}
	switch {
	case vm.boolean("is_a_template") && !snapshot && !op.template:
		return fail("VM_IS_TEMPLATE", vm.ref, name)
	case snapshot && !op.snapshot:
		return fail("VM_IS_SNAPSHOT", vm.ref, name)
	case name == "provision" && !vm.boolean("is_a_template"):
		return fail("ONLY_PROVISION_TEMPLATE")
	case name == "revert" && !snapshot:
		return fail("ONLY_REVERT_SNAPSHOT")
	case vm.boolean("is_control_domain") && name == "destroy":
		return fail("OPERATION_NOT_ALLOWED", "This operation is not allowed on dom0")
	case vm.boolean("is_control_domain") && !slices.Contains(controlDomainOperations, name):
		return fail("OPERATION_NOT_ALLOWED", "This operation is not allowed on a control domain")
	}
	return p.gateFeatures(vm, name, op)
}

// controlDomainOperations are those that the gate lets pass for dom0 (xen-api ocaml/xapi/xapi_vm_lifecycle.ml).
var controlDomainOperations = []string{
	"changing_dynamic_range", "changing_memory_limits", "changing_static_range", "metadata_export", "start", "start_on", "changing_VCPUs",
}

// gateFeatures is the end of the gate: what the guest must be able to do, and what the VM must not have. The domain of a
// guest that is known to have drivers, or is paravirtual, is expected to do what it is asked (xapi-facts §6.2, §7.7).
func (p *Pool) gateFeatures(vm *object, name string, op operation) error {
	if state := vm.text("power_state"); op.guest != nil && (state == "Running" || state == "Paused") && p.runsHVM(vm) {
		metrics := p.db.find("VM_guest_metrics", vm.text("guest_metrics"))
		if metrics == nil {
			return fail("VM_LACKS_FEATURE", vm.ref)
		}
		other, version := metrics.table("other"), metrics.table("PV_drivers_version")
		if reason := other["data-cant-suspend-reason"]; reason != "" && op.whole {
			return fail("VM_NON_SUSPENDABLE", vm.ref, reason)
		}
		announced := slices.ContainsFunc(op.guest, func(feature string) bool { return other[feature] == "1" })
		if !announced && (version["major"] == "" || version["minor"] == "") {
			return fail("VM_LACKS_FEATURE", vm.ref)
		}
	}
	if op.whole {
		for _, vbd := range p.db.refs(vm, "VBDs", "VBD") {
			if vdi := p.db.find("VDI", vbd.text("VDI")); vdi != nil && vdi.text("on_boot") == "reset" {
				return fail("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
			}
		}
		if len(vm.list("VUSBs")) > 0 {
			return fail("VM_HAS_VUSBS", vm.ref)
		}
	}
	if err := p.upgradable(name, upgradeVMOperations); err != nil {
		return err
	}
	if count := len(vm.list("VTPMs")); name == "create_vtpm" && count > 0 {
		return fail("VTPM_MAX_AMOUNT_REACHED", strconv.Itoa(count))
	}
	return nil
}

// runsHVM tells whether a VM's domain is, or would be, an HVM one.
func (p *Pool) runsHVM(vm *object) bool {
	if metrics := p.db.find("VM_metrics", vm.text("metrics")); metrics != nil && metrics.text("current_domain_type") != "unspecified" {
		return metrics.text("current_domain_type") == "hvm"
	}
	return vm.text("domain_type") == "hvm"
}

// concurrent tells whether an operation may begin while others go on.
func (op operation) concurrent(name string, going []string) bool {
	anything := slices.Contains(op.besides, "*")
	return !slices.ContainsFunc(going, func(other string) bool {
		if anything {
			return other == name || slices.Contains(op.besides, "!"+other)
		}
		return !slices.Contains(op.besides, other)
	})
}

// conflict is the error of a VM on which something goes on. Of several operations it is a list in braces
// (report_concurrent_operations_error in xapi_vm_lifecycle.ml).
func conflict(vm *object) error {
	var tasks, operations []string
	for _, task := range slices.Sorted(maps.Keys(vm.table("current_operations"))) {
		tasks, operations = append(tasks, task), append(operations, vm.table("current_operations")[task])
	}
	text := func(list []string) string {
		if len(list) == 1 {
			return list[0]
		}
		return "{" + strings.Join(list, ",") + "}"
	}
	return fail("OTHER_OPERATION_IN_PROGRESS", "VM", vm.ref, text(operations), text(tasks))
}

func operationsOf(vm *object) []string {
	var out []string
	for _, operation := range vm.table("current_operations") {
		out = append(out, operation)
	}
	return out
}

func vmAllowed(p *Pool, vm *object) any {
	out := []string{}
	for name, op := range vmOperations {
		if op.shown == nil && p.gateVM(vm, name) == nil {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// onVM carries out an operation of a VM behind its gate. A call that is not carried out leaves no trace.
func (c *call) onVM(vm *object, name string, run func() error) error {
	if err := c.admit(func() error { return c.gateVM(vm, name) }); err != nil {
		return err
	}
	if vmOperations[name].here {
		if err := c.reach(vm.text("resident_on")); err != nil {
			return err
		}
	}
	defer c.begin(vm, name)()
	return run()
}

// vmCall makes a handler whose first argument is a VM, behind the gate of an operation.
func vmCall(name string, run func(c *call, vm *object) error) handler {
	return func(c *call) (any, error) {
		vm, err := c.object(0)
		if err != nil {
			return nil, err
		}
		return nil, c.onVM(vm, name, func() error { return run(c, vm) })
	}
}

var vmCalls = map[string]handler{
	"VM.create":                    vmCreate,
	"VM.destroy":                   vmCall("destroy", (*call).destroyVM),
	"VM.clone":                     vmClone,
	"VM.copy":                      vmCopy,
	"VM.snapshot":                  vmSnapshot,
	"VM.revert":                    vmRevert,
	"VM.provision":                 vmCall("provision", (*call).provision),
	"VM.set_is_a_template":         vmSetIsATemplate,
	"VM.update_allowed_operations": func(c *call) (any, error) { _, err := c.object(0); return nil, err }, // they are never stale here
	"VM.get_allowed_VBD_devices":   func(c *call) (any, error) { return freeDevices(c, "VBDs", "VBD", "userdevice", 255) },
	"VM.get_allowed_VIF_devices":   func(c *call) (any, error) { return freeDevices(c, "VIFs", "VIF", "device", 16) },
	"VM.compute_memory_overhead": func(c *call) (any, error) {
		vm, err := c.object(0)
		if err != nil {
			return nil, err
		}
		return overhead(vm), nil
	},
}

// overhead is what a VM's domain takes besides its memory, in bytes: pages of Xen's own for each virtual processor, a map of
// the memory and its shadow, and what is around them (ocaml/xapi-idl/memory/memory.ml).
func overhead(vm *object) int64 {
	if vm.boolean("is_control_domain") {
		return vm.integer("memory_overhead")
	}
	mib := func(pages int64) int64 { return (pages + 255) / 256 }
	processors, memory := vm.integer("VCPUs_max"), (vm.integer("memory_static_max")+1<<20-1)>>20
	around, multiplier := int64(1), 1.0
	if vm.text("domain_type") != "pv" {
		around = 2
		multiplier, _ = vm.values["HVM_shadow_multiplier"].(float64)
	}
	shadow := max(1, int64(float64(mib(256*processors+2*memory))*multiplier))
	return (around + shadow + mib(38*processors)) << 20
}

func vmCreate(c *call) (any, error) {
	values := c.record(0)
	delete(values, "blocked_operations") // a constructor cannot set them (xapi-facts §5.2)
	values["power_state"] = "Halted"
	if vendor, given := values["has_vendor_device"].(bool); vendor || !given { // the device needs the second version of the hardware
		version, _ := values["hardware_platform_version"].(int64)
		values["hardware_platform_version"] = max(version, 2)
	}
	return c.newVM(values).ref, nil
}

// newVM makes a VM's record, with what xapi adds to it: metrics, a seed for MAC addresses, the domain type.
func (p *Pool) newVM(values map[string]any) *object {
	values["metrics"] = p.newMetrics()
	values["domid"] = int64(-1)
	if t := asText(values["domain_type"]); t == "" || t == "unspecified" {
		values["domain_type"] = "hvm"
		if asText(values["HVM_boot_policy"]) == "" {
			values["domain_type"] = "pv"
		}
	}
	vm := p.db.insert("VM", values)
	if vm.table("other_config")["mac_seed"] == "" {
		p.db.put(vm, "other_config", "mac_seed", newUUID())
	}
	return vm
}

func (p *Pool) newMetrics() string {
	return p.db.insert("VM_metrics", map[string]any{"VCPUs_utilisation": map[string]any{"0": 0.0}}).ref
}

// destroyVM removes a VM with its devices and metrics. Its disks and its snapshots stay (xapi-facts §6.3).
func (c *call) destroyVM(vm *object) error {
	if vm.boolean("is_default_template") {
		return fail("VM_CANNOT_DELETE_DEFAULT_TEMPLATE", vm.ref)
	}
	for _, children := range [][]*object{
		c.db.refs(vm, "VBDs", "VBD"), c.db.refs(vm, "VIFs", "VIF"), c.db.refs(vm, "VTPMs", "VTPM"), c.db.refs(vm, "consoles", "console"),
	} {
		for _, child := range children {
			c.db.remove(child)
		}
	}
	c.dropMetrics(vm, "metrics", "VM_metrics")
	c.dropMetrics(vm, "guest_metrics", "VM_guest_metrics")
	for _, child := range c.db.refs(vm, "children", "VM") {
		c.db.set(child, "parent", vm.text("parent"))
	}
	delete(c.snapshotOrigins, vm.ref)
	c.db.remove(vm)
	return nil
}

func (p *Pool) dropMetrics(vm *object, field, class string) {
	if metrics := p.db.find(class, vm.text(field)); metrics != nil {
		p.db.remove(metrics)
	}
	p.db.set(vm, field, nullRef)
}

// provision turns a clone of a template into a VM. Templates whose other_config:disks asks for disks are not made here,
// so there are none to create.
func (c *call) provision(vm *object) error {
	if vm.table("other_config")["disks"] != "" {
		return fail("NOT_IMPLEMENTED", "VM.provision of a template with other_config:disks")
	}
	c.db.set(vm, "is_a_template", false)
	if metrics := c.db.find("VM_metrics", vm.text("metrics")); metrics != nil {
		c.db.set(metrics, "install_time", now())
	}
	return nil
}

func vmSetIsATemplate(c *call) (any, error) {
	vm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	if !c.boolean(1) {
		c.db.set(vm, "is_a_template", false)
		if metrics := c.db.find("VM_metrics", vm.text("metrics")); metrics != nil {
			c.db.set(metrics, "install_time", now())
		}
		return nil, nil
	}
	return nil, c.onVM(vm, "make_into_template", func() error {
		c.dropMetrics(vm, "metrics", "VM_metrics") // it stays without when it is made a VM again (xapi-observed)
		c.db.set(vm, "is_a_template", true)
		return nil
	})
}

func freeDevices(c *call, field, class, number string, limit int) (any, error) {
	vm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	return c.freeNumbers(vm, field, class, number, limit), nil
}
