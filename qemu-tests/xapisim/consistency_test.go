package xapisim_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// powerCalls are the operations whose calls need nothing but the VM. None of them changes what another needs beyond the
// power state.
var powerCalls = map[string][]any{
	"start": {false, false}, "clean_shutdown": nil, "hard_shutdown": nil, "pause": nil, "unpause": nil, "clean_reboot": nil, "hard_reboot": nil,
	"snapshot": {"s"}, "clone": {"c"}, "destroy": nil,
}

// TestStateIsConsistent makes random calls. After each, sets that mirror references agree with them, and what a VM's
// allowed_operations say of an operation is what its call then answers.
func TestStateIsConsistent(t *testing.T) {
	pool := newPool(t, xapisim.Config{GuestDelay: time.Millisecond, GuestMetricsDelay: time.Millisecond})
	c := connect(t, pool)
	sr := c.one("SR", "local")
	rapid.Check(t, func(rt *rapid.T) {
		vms := []string{addVM(t, pool, xapisim.VMConfig{Name: "v", Disks: []xapisim.DiskConfig{{Size: mib, SR: "local"}}})}
		for range rapid.IntRange(3, 12).Draw(rt, "calls") {
			vm := rapid.SampledFrom(vms).Draw(rt, "vm")
			switch action := rapid.SampledFrom([]string{"power", "power", "power", "attach", "detach", "template"}).Draw(rt, "action"); action {
			case "power":
				name := rapid.SampledFrom(slices.Sorted(maps.Keys(powerCalls))).Draw(rt, "operation")
				if made := tryOperation(rt, c, vm, name); strings.HasPrefix(made, "OpaqueRef:") {
					vms = append(vms, made)
				}
			case "attach":
				vdi := c.newVDI(sr, mib)
				_, _ = c.try("VBD.create", vbdOf(vm, vdi)) // refused where the VM is gone
			case "detach":
				vbds, _ := c.try("VM.get_VBDs", vm)
				list, _ := vbds.([]any)
				for _, vbd := range list {
					_, _ = c.try("VBD.destroy", vbd) // refused while it is attached
				}
			case "template":
				_, _ = c.try("VM.set_is_a_template", vm, rapid.Bool().Draw(rt, "template")) // refused while it runs
			}
			for _, difference := range pool.Inconsistencies() {
				rt.Error(difference)
			}
		}
		for _, vm := range vms {
			_, _ = c.try("VM.hard_shutdown", vm) // as far as it runs
		}
	})
}

func vbdOf(vm, vdi string) map[string]any {
	return map[string]any{
		"VM": vm, "VDI": vdi, "userdevice": "autodetect", "bootable": false, "mode": "RW", "type": "Disk", "empty": false,
		"other_config": map[string]any{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]any{},
	}
}

// gateErrors are the codes with which the gate refuses an operation that allowed_operations do not list.
var gateErrors = []string{"VM_BAD_POWER_STATE", "VM_IS_TEMPLATE", "VM_IS_SNAPSHOT", "VM_LACKS_FEATURE", "OTHER_OPERATION_IN_PROGRESS"}

// tryOperation makes a call and holds its answer against allowed_operations.
func tryOperation(rt *rapid.T, c *client, vm, name string) string {
	allowed, err := c.try("VM.get_allowed_operations", vm)
	if err != nil {
		return "" // it has been destroyed
	}
	list, _ := allowed.([]any)
	listed := slices.Contains(list, any(name))
	result, err := c.try("VM."+name, append([]any{vm}, powerCalls[name]...)...)
	var apiErr *apiError
	refused := errors.As(err, &apiErr) && slices.Contains(gateErrors, apiErr.code)
	if listed == refused {
		rt.Errorf("VM.%s answers %v, but allowed_operations are %v", name, err, allowed)
	}
	if err == nil && (name == "start" || strings.HasSuffix(name, "_reboot")) {
		awaitAgent(c, vm)
	}
	return fmt.Sprint(result)
}
