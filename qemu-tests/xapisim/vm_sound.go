package xapisim

import (
	"slices"
	"strconv"
	"strings"
)

// What nobody checks when it is set shows when the VM is started (xapi-facts §6.3, §7.1, trap 32).

// soundPlatform checks what a VM's platform says of its machine (sanity_check in xen-api ocaml/xapi/vm_platform.ml).
func soundPlatform(vm *object, firmware string) error {
	platform := vm.table("platform")
	switch model := platform["device-model"]; {
	case model == "qemu-trad" && firmware == "uefi":
		return fail("INVALID_VALUE", "platform:device-model", "UEFI boot is not supported with qemu-trad")
	case model == "qemu-upstream-uefi" && firmware == "bios":
		return fail("INVALID_VALUE", "platform:device-model", "BIOS boot is not supported with qemu-upstream-uefi")
	}
	cores, given := platform["cores-per-socket"]
	if !given || vm.text("domain_type") == "pv" {
		return nil
	}
	switch n, err := strconv.ParseInt(cores, 0, 64); {
	case err != nil:
		return fail("INVALID_VALUE", "platform:cores-per-socket", cores)
	case n < 1 || vm.integer("VCPUs_max")%n != 0:
		return fail("VCPU_MAX_NOT_CORES_PER_SOCKET_MULTIPLE", strconv.FormatInt(vm.integer("VCPUs_max"), 10), cores)
	}
	return nil
}

// maxPayload is the size of a request to xenstore, which a path and its value share.
const maxPayload = 4096

// storable refuses data that xenstore does not take: the domain is not built then.
func storable(data map[string]string) error {
	legal := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_@/", r)
	}
	for key, value := range data {
		switch {
		case slices.ContainsFunc([]rune(key), func(r rune) bool { return !legal(r) }), strings.Contains(key, "//"), strings.HasSuffix(key, "/"):
			return internal("xenopsd: xenstore: EINVAL: " + key)
		case len("/local/domain/65535/")+len(key)+len(value) > maxPayload:
			return internal("xenopsd: xenstore: E2BIG: " + key)
		}
	}
	return nil
}
