package xapisim_test

import (
	"maps"
	"slices"
	"strconv"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// unmanaged are the base copies of an SR.
func (c *client) unmanaged(sr string) []string {
	c.t.Helper()
	return slices.DeleteFunc(c.list("SR.get_VDIs", sr), func(vdi string) bool { return c.call("VDI.get_managed", vdi) == true })
}

func (c *client) parent(vdi string) any {
	c.t.Helper()
	config, _ := c.record("VDI", vdi)["sm_config"].(map[string]any)
	return config["vhd-parent"]
}

func TestBaseCopiesComeAndGo(t *testing.T) {
	pool := newPool(t, xapisim.Config{CoalesceDelay: -1})
	c := connect(t, pool)
	sr := c.one("SR", "shared")
	vdi := c.newVDI(sr, 16*mib)
	c.write(pool, vdi, 0, "content")
	first := c.text("VDI.snapshot", vdi)
	bases := c.unmanaged(sr)
	if len(bases) != 1 || c.parent(vdi) != c.text("VDI.get_uuid", bases[0]) || c.parent(first) != c.parent(vdi) {
		t.Fatalf("base copies %v under %v and %v", bases, c.parent(vdi), c.parent(first))
	}
	record := c.record("VDI", bases[0])
	if record["name_label"] != "base copy" || record["read_only"] != true || len(record["allowed_operations"].([]any)) != 0 {
		t.Errorf("%v", record)
	}
	c.refuse("VDI_NOT_MANAGED", []string{bases[0]}, "VDI.destroy", bases[0])
	clone := c.text("VDI.clone", first) // of a disk that holds what its base holds: the same base
	if c.parent(clone) != c.parent(first) || len(c.unmanaged(sr)) != 1 {
		t.Error("an empty leaf got a base copy")
	}
	c.write(pool, vdi, 4*mib, "more")
	second := c.text("VDI.snapshot", vdi)
	if len(c.unmanaged(sr)) != 2 {
		t.Errorf("base copies %v", c.unmanaged(sr))
	}
	c.call("VDI.destroy", first)
	c.call("VDI.destroy", clone)
	c.call("SR.scan", sr)
	if len(c.unmanaged(sr)) != 2 {
		t.Error("merged although nobody asked for it")
	}
	pool.Coalesce() // the lower base carries the upper only
	if bases := c.unmanaged(sr); len(bases) != 1 || c.parent(second) != c.text("VDI.get_uuid", bases[0]) || c.parent(vdi) != c.parent(second) {
		t.Errorf("base copies %v", bases)
	}
	c.call("VDI.add_to_other_config", vdi, "leaf-coalesce", "false")
	c.call("VDI.destroy", second)
	pool.Coalesce()
	if len(c.unmanaged(sr)) != 1 {
		t.Error("a leaf was merged although its VDI forbids it")
	}
	c.call("VDI.remove_from_other_config", vdi, "leaf-coalesce")
	pool.Coalesce()
	if len(c.unmanaged(sr)) != 0 || c.parent(vdi) != nil {
		t.Errorf("base copies %v", c.unmanaged(sr))
	}
	if string(read(t, c.path(pool, vdi))[4*mib:4*mib+4]) != "more" {
		t.Error("the disk has lost content")
	}
}

func TestChainIsMergedInTime(t *testing.T) {
	pool := newPool(t, xapisim.Config{CoalesceDelay: 1})
	c := connect(t, pool)
	sr := c.one("SR", "shared")
	vdi := c.newVDI(sr, 2*mib)
	c.write(pool, vdi, 0, "content")
	c.call("VDI.destroy", c.text("VDI.snapshot", vdi))
	eventually(t, "the merge", func() bool { return len(c.list("SR.get_VDIs", sr)) == 1 })
}

// A merge needs room for what the lower volume grows by. Where there is none, chains stay as long as they are.
func TestAFullSRIsNotMerged(t *testing.T) {
	pool := newPool(t, xapisim.Config{CoalesceDelay: -1})
	c := connect(t, pool)
	sr := c.one("SR", "shared")
	vdi := c.newVDI(sr, 16*mib)
	var snapshots []string
	for n := range 3 {
		c.write(pool, vdi, int64(n)*4*mib, "content")
		snapshots = append(snapshots, c.text("VDI.snapshot", vdi))
	}
	notices := func() int {
		return len(c.call("message.get", "SR", c.text("SR.get_uuid", sr), "19700101T00:00:00Z").(map[string]any))
	}
	c.call("VDI.destroy", snapshots[0]) // its base copy carries one other now
	tell(t, pool, `{"kind":"fill","object":"shared","free":1048576}`)
	for range 2 {
		pool.Coalesce()
		if got := len(c.unmanaged(sr)); got != 3 || notices() != 1 {
			t.Errorf("%d base copies and %d messages in a full SR, want 3 and 1", got, notices())
		}
	}
	tell(t, pool, `{"kind":"fill","object":"shared","free":4194304}`)
	pool.Coalesce()
	if got := len(c.unmanaged(sr)); got != 2 || notices() != 0 {
		t.Errorf("%d base copies and %d messages when there is room again, want 2 and none", got, notices())
	}
	// The same of a leaf: the last snapshot goes, the disk has grown since.
	c.write(pool, vdi, 12*mib, "leaf")
	c.call("SR.update", sr)
	tell(t, pool, `{"kind":"fill","object":"shared","free":1048576}`)
	c.call("VDI.destroy", snapshots[2])
	tell(t, pool, `{"kind":"fill","object":"shared","free":1048576}`)
	pool.Coalesce()
	if got := len(c.unmanaged(sr)); got != 2 {
		t.Errorf("%d base copies under a leaf in a full SR, want 2", got)
	}
	tell(t, pool, `{"kind":"fill","object":"shared","free":4194304}`)
	pool.Coalesce()
	if got := len(c.unmanaged(sr)); got != 1 {
		t.Errorf("%d base copies under a leaf when there is room again, want 1", got)
	}
}

func TestChainLimit(t *testing.T) {
	pool := newPool(t, xapisim.Config{CoalesceDelay: -1})
	c := connect(t, pool)
	vdi := c.newVDI(c.one("SR", "shared"), 2*mib)
	for n := range 29 {
		c.write(pool, vdi, 0, strconv.Itoa(n))
		c.call("VDI.snapshot", vdi)
	}
	c.write(pool, vdi, 0, "full")
	c.refuse("SR_BACKEND_FAILURE_109", []string{"", "The snapshot chain is too long", ""}, "VDI.snapshot", vdi)
	c.refuse("SR_BACKEND_FAILURE_109", nil, "VDI.clone", vdi)
	c.call("VDI.copy", vdi, c.one("SR", "shared"))
}

// A disk on a base copy takes what differs from that, in the blocks of VHD; a fresh one next to nothing.
func TestUtilisationOfChains(t *testing.T) {
	pool := newPool(t, xapisim.Config{CoalesceDelay: -1})
	c := connect(t, pool)
	sr := c.one("SR", "shared")
	vdi := c.newVDI(sr, 16*mib)
	c.write(pool, vdi, 0, string(slices.Repeat([]byte{1}, 4*mib)))
	snapshot := c.text("VDI.snapshot", vdi)
	want := func(vdi string, low, high int64) {
		t.Helper()
		c.call("SR.update", sr)
		got, err := strconv.ParseInt(c.record("VDI", vdi)["physical_utilisation"].(interface{ String() string }).String(), 10, 64)
		if err != nil || got < low || got > high {
			t.Errorf("utilisation %d, want %d to %d", got, low, high)
		}
	}
	want(vdi, 0, 64*kib)
	want(snapshot, 0, 64*kib)
	want(c.unmanaged(sr)[0], 4*mib, 5*mib)
	c.write(pool, vdi, mib, "overwritten")
	c.write(pool, vdi, 9*mib, "new")
	want(vdi, 4*mib, 4*mib+64*kib)
	want(snapshot, 0, 64*kib)
	c.call("VDI.destroy", snapshot)
	pool.Coalesce()
	want(vdi, 4*mib, 5*mib)
}

func TestScanKeepsChainsAndLogs(t *testing.T) {
	pool := newPool(t, xapisim.Config{CoalesceDelay: -1})
	c := connect(t, pool)
	sr := c.one("SR", "shared")
	vdi := c.newVDI(sr, 2*mib, "marker")
	c.call("VDI.enable_cbt", vdi)
	c.write(pool, vdi, 0, "content")
	snapshot := c.text("VDI.snapshot", vdi)
	before, uuid := c.record("VDI", vdi), c.text("VDI.get_uuid", vdi)
	c.call("VDI.forget", vdi)
	c.refuse("HANDLE_INVALID", []string{"VDI", vdi}, "VDI.get_record", vdi)
	c.call("SR.scan", sr)
	again := c.text("VDI.get_by_uuid", uuid)
	after := c.record("VDI", again)
	if again == vdi || len(after["other_config"].(map[string]any)) != 0 || after["cbt_enabled"] != true {
		t.Errorf("%v", after)
	}
	if !maps.Equal(after["sm_config"].(map[string]any), before["sm_config"].(map[string]any)) {
		t.Errorf("chain %v, was %v", after["sm_config"], before["sm_config"])
	}
	c.write(pool, again, 64*kib, "after")
	c.wantChanged(snapshot, again, 1)
}
