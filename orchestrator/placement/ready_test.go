package placement_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// chain puts a disk on so many base copies, each of which the next one alone lies on when alone is set.
func (b builder) chain(disk xapi.Ref, below int, alone bool) {
	top := b.VDIs[disk]
	for n := range below {
		base := xapi.VDI{UUID: fmt.Sprintf("%s-base%d", disk, n), SR: top.SR}
		upper := xapi.Ref(fmt.Sprintf("%s-base%d", disk, n-1))
		if n == 0 {
			upper = disk
		}
		vdi := b.VDIs[upper]
		vdi.SMConfig = map[string]string{"vhd-parent": base.UUID}
		b.VDIs[upper] = vdi
		if !alone {
			b.VDIs[xapi.Ref(base.UUID+"-snapshot")] = xapi.VDI{UUID: base.UUID + "-snapshot", Managed: true, SMConfig: vdi.SMConfig}
		}
		b.VDIs[xapi.Ref(base.UUID)] = base
	}
}

func edit[T any](records map[xapi.Ref]T, ref xapi.Ref, change func(*T)) {
	record := records[ref]
	change(&record)
	records[ref] = record
}

func TestReadiness(t *testing.T) {
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		spoil func(source, target builder, request *placement.Request)
		want  string // severity, code and subject of each finding
		cause string // a part of the first one's
		mend  string
	}{
		"ready": {spoil: func(builder, builder, *placement.Request) {}},
		"licence": {
			spoil: func(_, target builder, _ *placement.Request) {
				target.Record.Restrictions = map[string]string{"restrict_vm_start": "true", "restrict_cbt": "true"}
			},
			want: "error licence pool target", cause: "forbids starting VMs", mend: "licence",
		},
		"licence expired": {
			spoil: func(source, _ builder, _ *placement.Request) {
				edit(source.Hosts, "s1", func(h *xapi.Host) { h.LicenseParams = map[string]string{"expiry": "20261031T00:00:00Z"} })
				edit(source.Hosts, "s2", func(h *xapi.Host) { h.LicenseParams = map[string]string{"expiry": "never"} })
			},
			want: "warning licence-expired host s1", cause: "expired on 2026-10-31", mend: "renew",
		},
		"old release": {
			spoil: func(source, _ builder, _ *placement.Request) {
				for ref := range source.Hosts {
					edit(source.Hosts, ref, func(h *xapi.Host) { h.APIVersionMinor = 5 })
				}
			},
			want: "error version host s1, error version host s2", cause: "speaks version 2.5 of the XenAPI", mend: "upgrade",
		},
		"being upgraded": {
			spoil: func(_, target builder, _ *placement.Request) {
				edit(target.Hosts, "t1", func(h *xapi.Host) { h.APIVersionMinor = 23 })
			},
			want: "error pool-upgrading pool target", cause: "2.21, 2.23", mend: "end the upgrade",
		},
		"host of the VM is down": {
			spoil: func(source, _ builder, _ *placement.Request) {
				source.HostMetrics["s2"] = xapi.HostMetrics{}
				edit(source.VMs, "vm", func(vm *xapi.VM) { vm.ResidentOn = "s2" })
			},
			want: "error vm-host-down VM vm", cause: "runs on host s2, which is not alive", mend: "bring the host back",
		},
		"snapshots blocked": {
			spoil: func(source, _ builder, _ *placement.Request) {
				edit(source.VMs, "vm", func(vm *xapi.VM) {
					vm.BlockedOperations = map[xapi.VMOperation]string{xapi.VMOperationSnapshot: "hands off", xapi.VMOperationDestroy: "no"}
				})
			},
			want: "error snapshot-blocked VM vm", cause: `"hands off"`, mend: "unblock",
		},
		"busy": {
			spoil: func(source, _ builder, _ *placement.Request) {
				edit(source.VMs, "vm", func(vm *xapi.VM) {
					vm.CurrentOperations = map[string]xapi.VMOperation{"1": xapi.VMOperationPoolMigrate, "2": xapi.VMOperationSnapshot, "3": xapi.VMOperationCallPlugin}
				})
			},
			want: "error vm-busy VM vm, warning snapshot-running VM vm", cause: "during the operation pool_migrate", mend: "wait",
		},
		"unplugged": {
			spoil: func(_, target builder, _ *placement.Request) { clear(target.PBDs) },
			want:  "error sr-unplugged SR store (uuid-store)", cause: "no host of pool target has SR store", mend: "plug",
		},
		"unscanned": {
			spoil: func(_, target builder, _ *placement.Request) { target.sr("store", "nfs", -1, -1) },
			want:  "warning sr-unscanned SR store (uuid-store)", cause: "does not tell its size", mend: "scan",
		},
		"full chain": {
			spoil: func(source, _ builder, _ *placement.Request) { source.chain("vm-0", 29, false) },
			want:  "error chain-long disk 0 (vm-0) of VM vm", cause: "a chain of 30 volumes", mend: "remove snapshots",
		},
		"long chain, to be merged": {
			spoil: func(source, _ builder, _ *placement.Request) { source.chain("vm-1", 20, true) },
			want:  "warning chain-long disk 1 (vm-1) of VM vm, warning coalesce-pending disk 1 (vm-1) of VM vm", cause: "a chain of 21 volumes", mend: "merge",
		},
		"a chain that is not long": {spoil: func(source, _ builder, _ *placement.Request) { source.chain("vm-0", 19, false) }},
		"too large": {
			spoil: func(source, _ builder, _ *placement.Request) {
				edit(source.VDIs, "vm-1", func(v *xapi.VDI) { v.VirtualSize = 2040*gib + 1 })
			},
			want: "error disk-too-large disk 1 (vm-1) of VM vm", cause: "has 2041 GiB, a disk on SR store (uuid-store) can have 2040 GiB", mend: "another format",
		},
		"not too large for the SR of the disk": {
			spoil: func(source, target builder, request *placement.Request) {
				edit(source.VDIs, "vm-1", func(v *xapi.VDI) { v.VirtualSize = 3000 * gib })
				target.sr("large", "nfs", 9000*gib, 0)
				target.PBDs["t1-large"] = xapi.PBD{Host: "t1", SR: "large", CurrentlyAttached: true, DeviceConfig: map[string]string{"preferred-image-formats": "qcow2"}}
				request.DiskSRs = map[int]xapi.Ref{1: "large"}
			},
		},
		"an SR with a disk as large": {
			spoil: func(source, target builder, _ *placement.Request) {
				edit(source.VDIs, "vm-1", func(v *xapi.VDI) { v.VirtualSize = 3000 * gib })
				target.VDIs["other"] = xapi.VDI{SR: "store", VirtualSize: 2500 * gib}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			source, target, request := twoPools()
			for _, pool := range []builder{source, target} {
				for ref := range pool.Hosts {
					edit(pool.Hosts, ref, func(h *xapi.Host) { h.APIVersionMajor, h.APIVersionMinor = 2, 21 })
				}
			}
			c.spoil(source, target, &request)
			found := placement.Readiness(request, now)
			var got []string
			for _, f := range found {
				got = append(got, fmt.Sprintf("%s %s %s", f.Severity, f.Code, f.Subject))
			}
			if text := strings.Join(got, ", "); text != c.want {
				t.Fatalf("found %q, want %q", text, c.want)
			}
			if len(found) > 0 && (!strings.Contains(found[0].Cause, c.cause) || !strings.Contains(found[0].Mend, c.mend)) {
				t.Errorf("found %+v", found[0])
			}
		})
	}
}

// TestChainsThatEndInThemselves: records of a pool in trouble are read, too.
func TestChainsThatEndInThemselves(t *testing.T) {
	pool := newPool("pool")
	pool.VDIs["a"] = xapi.VDI{UUID: "a", SMConfig: map[string]string{"vhd-parent": "b"}}
	pool.VDIs["b"] = xapi.VDI{UUID: "b", SMConfig: map[string]string{"vhd-parent": "a"}}
	if chain := pool.Chains().Of(pool.VDIs["a"]); chain.Length != inventory.MaxChain+1 {
		t.Errorf("%+v", chain)
	}
}

// TestFindingsHaveCodes: what MakePlan finds says by a code what it is, and about what.
func TestFindingsHaveCodes(t *testing.T) {
	source, target, request := twoPools()
	delete(source.PBDs, "s1-nfs")
	target.sr("store", "nfs", 100*gib, 95*gib)
	edit(target.Hosts, "t1", func(h *xapi.Host) { h.Enabled = false })
	target.FreeMemory["t2"] = 0
	_, err := placement.MakePlan(request)
	infeasible, ok := err.(*placement.Infeasible)
	if !ok {
		t.Fatal(err)
	}
	var got []string
	for _, f := range infeasible.Findings {
		got = append(got, f.Code+" "+f.Subject)
	}
	want := []string{"image-sr-unseen host s1", "sr-unseen host s2", "host-disabled host t1", "host-memory host t2", "space SR store (uuid-store)"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
