package xapisim_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func (c *client) path(pool *xapisim.Pool, vdi string) string {
	c.t.Helper()
	return pool.VDIPath(c.text("VDI.get_uuid", vdi))
}

func (c *client) write(pool *xapisim.Pool, vdi string, offset int64, content string) {
	c.t.Helper()
	f, err := os.OpenFile(c.path(pool, vdi), os.O_RDWR, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	_, err = f.WriteAt([]byte(content), offset)
	if err := f.Close(); err != nil {
		c.t.Error(err)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestVDISizesAreRoundedUp(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	sr := c.one("SR", "shared")
	for wanted, size := range map[int64]int64{0: 2 * mib, 1: 2 * mib, 2 * mib: 2 * mib, 2*mib + 1: 4 * mib, 5 * mib: 6 * mib} {
		vdi := c.newVDI(sr, wanted)
		record := c.record("VDI", vdi)
		if got, err := os.Stat(c.path(pool, vdi)); err != nil || got.Size() != size || record["virtual_size"] != c.call("VDI.get_virtual_size", vdi) {
			t.Errorf("%d: %v, %v", wanted, got, err)
		}
		if want := filepath.Join(c.text("SR.get_uuid", sr), c.text("VDI.get_uuid", vdi)+".raw"); !strings.HasSuffix(c.path(pool, vdi), want) {
			t.Errorf("the file is %s", c.path(pool, vdi))
		}
		if record["managed"] != true || record["location"] != record["uuid"] || record["snapshot_time"] != "19700101T00:00:00Z" {
			t.Errorf("record %v", record)
		}
	}
	for _, size := range []int64{-1, 2040<<30 + 1} {
		c.refuse("SR_BACKEND_FAILURE_79", nil, "VDI.create", map[string]any{"SR": sr, "virtual_size": size, "type": "user",
			"sharable": false, "read_only": false, "other_config": map[string]string{}})
	}
}

func TestSnapshotAndCloneCopyContentAndMarkers(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vdi := c.newVDI(c.one("SR", "shared"), 64*mib, "understudy:kind")
	c.call("VDI.add_tags", vdi, "tag")
	c.call("VDI.set_sm_config", vdi, map[string]string{"vhd-parent": "x"})
	c.write(pool, vdi, 3*mib+5, "written")
	content := read(t, c.path(pool, vdi))
	snapshot, clone := c.text("VDI.snapshot", vdi), c.text("VDI.clone", vdi, map[string]string{})
	c.write(pool, vdi, 3*mib+5, "changed")
	for _, copied := range []string{snapshot, clone} {
		record, path := c.record("VDI", copied), c.path(pool, copied)
		if !bytes.Equal(read(t, path), content) {
			t.Error("the copy has another content")
		}
		if stat, ok := mustStat(t, path).Sys().(*syscall.Stat_t); !ok || stat.Blocks*512 > mib {
			t.Error("the copy is not sparse")
		}
		if config, ok := record["other_config"].(map[string]any); !ok || config["understudy:kind"] != "set" {
			t.Errorf("other_config %v", record["other_config"])
		}
		if config, ok := record["sm_config"].(map[string]any); !ok || len(config) != 1 || config["vhd-parent"] == "x" {
			t.Errorf("sm_config %v", record["sm_config"])
		}
		isSnapshot, of := copied == snapshot, nullRef
		if isSnapshot {
			of = vdi
		}
		if record["is_a_snapshot"] != isSnapshot || record["snapshot_of"] != of {
			t.Errorf("record %v", record)
		}
	}
	if got := c.list("VDI.get_snapshots", vdi); !slices.Equal(got, []string{snapshot}) {
		t.Errorf("snapshots %v", got)
	}
	path := c.path(pool, snapshot)
	c.call("VDI.destroy", snapshot)
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file stays: %v", err)
	}
	c.refuse("HANDLE_INVALID", []string{"VDI", snapshot}, "VDI.get_record", snapshot)
	if got := c.list("VDI.get_snapshots", vdi); len(got) != 0 {
		t.Errorf("snapshots %v", got)
	}
}

func mustStat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestThickSRFillsUp(t *testing.T) {
	pool := newPool(t, xapisim.Config{SRs: []xapisim.SRConfig{{Name: "lvm", Type: "lvm", Capacity: 20 * mib}}})
	c := connect(t, pool)
	sr := c.one("SR")
	vdi := c.newVDI(sr, 8*mib)
	snapshot := c.text("VDI.snapshot", vdi)
	if record := c.record("SR", sr); record["physical_utilisation"] != c.call("SR.get_virtual_allocation", sr) {
		t.Errorf("utilisation %v", record)
	}
	c.refuse("SR_BACKEND_FAILURE_44", nil, "VDI.clone", snapshot)
	c.refuse("SR_BACKEND_FAILURE_44", nil, "VDI.resize", vdi, 16*mib)
	if got := len(c.list("SR.get_VDIs", sr)); got != 2 {
		t.Errorf("%d VDIs after failures", got)
	}
	c.call("VDI.destroy", snapshot)
	c.call("VDI.resize", vdi, 16*mib)
	c.refuse("SR_BACKEND_FAILURE_79", nil, "VDI.resize", vdi, 8*mib)
}

func TestGarbageInNewVolumes(t *testing.T) {
	pool := newPool(t, xapisim.Config{SRs: []xapisim.SRConfig{{Name: "raw", Type: "lvm", Garbage: true}, {Name: "thin"}}})
	c := connect(t, pool)
	for name, zero := range map[string]bool{"raw": false, "thin": true} {
		content := read(t, c.path(pool, c.newVDI(c.one("SR", name), 2*mib)))
		if got := bytes.Count(content, []byte{0}) == len(content); got != zero {
			t.Errorf("%s reads as zeroes: %v", name, got)
		}
	}
}

func TestCopyToAnotherSR(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vdi := c.newVDI(c.one("SR", "shared"), 4*mib)
	c.write(pool, vdi, 4*mib-4, "tail")
	local := c.one("SR", "local")
	copied := c.text("VDI.copy", vdi, local)
	if c.text("VDI.get_SR", copied) != local || !bytes.Equal(read(t, c.path(pool, copied)), read(t, c.path(pool, vdi))) {
		t.Error("the copy differs or lies elsewhere")
	}
}

func TestScanFindsAndLosesVolumes(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	sr := c.one("SR", "shared")
	kept, lost := c.newVDI(sr, 2*mib), c.newVDI(sr, 2*mib)
	const uuid = "12121212-1212-4121-8121-121212121212"
	if err := os.WriteFile(filepath.Join(filepath.Dir(c.path(pool, kept)), uuid+".raw"), make([]byte, 2*mib), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(c.path(pool, lost)); err != nil {
		t.Fatal(err)
	}
	c.call("SR.scan", sr)
	if found := c.record("VDI", c.text("VDI.get_by_uuid", uuid)); found["SR"] != sr {
		t.Errorf("record %v", found)
	}
	c.refuse("HANDLE_INVALID", nil, "VDI.get_record", lost)
	c.record("VDI", kept)
}

func TestUnpluggedSR(t *testing.T) {
	c := connect(t, newPool(t, xapisim.Config{}))
	sr := c.one("SR", "local")
	vdi := c.newVDI(sr, 2*mib)
	for _, pbd := range c.list("SR.get_PBDs", sr) {
		c.call("PBD.unplug", pbd)
	}
	c.refuse("SR_HAS_NO_PBDS", []string{sr}, "SR.scan", sr)
	c.refuse("SR_HAS_NO_PBDS", []string{sr}, "VDI.snapshot", vdi)
}

// Operations on one SR go one after the other, and none of them fails for that.
func TestParallelOperationsQueue(t *testing.T) {
	c := connect(t, newPool(t, xapisim.Config{}))
	vdi := c.newVDI(c.one("SR", "shared"), 32*mib)
	var tasks []string
	for range 12 {
		tasks = append(tasks, c.text("Async.VDI.clone", vdi))
	}
	for _, task := range tasks {
		eventually(t, "a task", func() bool { return c.text("task.get_status", task) != "pending" })
		if record := c.record("task", task); record["status"] != "success" {
			t.Errorf("%v", record)
		}
	}
	if got := len(c.list("VDI.get_all")); got != 13 {
		t.Errorf("%d VDIs", got)
	}
}

// However snapshots, clones and destructions follow each other, every record has its file, and back-references agree.
func TestVDIHistories(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	sr := c.one("SR", "shared")
	rapid.Check(t, func(rt *rapid.T) {
		vdis := []string{c.newVDI(sr, 2*mib)}
		for _, step := range rapid.SliceOfN(rapid.SampledFrom([]string{"snapshot", "clone", "destroy"}), 1, 8).Draw(rt, "steps") {
			vdi := rapid.SampledFrom(vdis).Draw(rt, "vdi")
			if step != "destroy" {
				vdis = append(vdis, c.text("VDI."+step, vdi))
			} else if len(vdis) > 1 {
				c.call("VDI.destroy", vdi)
				vdis = slices.DeleteFunc(vdis, func(ref string) bool { return ref == vdi })
			}
		}
		for _, vdi := range vdis {
			mustStat(t, c.path(pool, vdi))
			of := c.text("VDI.get_snapshot_of", vdi)
			if slices.Contains(vdis, of) && !slices.Contains(c.list("VDI.get_snapshots", of), vdi) {
				rt.Fatalf("%s is missing among the snapshots of %s", vdi, of)
			}
		}
		if got := c.list("SR.get_VDIs", sr); len(got) != len(vdis) {
			rt.Fatalf("the SR has %d VDIs, want %d", len(got), len(vdis))
		}
		for _, vdi := range vdis {
			c.call("VDI.destroy", vdi)
		}
	})
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(c.path(pool, c.newVDI(sr, 1))), "*.raw")); err != nil || len(left) != 1 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestCancelledCreationLeavesNothing(t *testing.T) {
	pool := newPool(t, xapisim.Config{SRs: []xapisim.SRConfig{{Name: "raw", Type: "lvm", Garbage: true}}})
	c := connect(t, pool)
	sr := c.one("SR")
	dir := filepath.Dir(c.path(pool, c.newVDI(sr, 1)))
	task := c.text("Async.VDI.create", map[string]any{"SR": sr, "virtual_size": 1 << 39, "type": "user", // noise for hours
		"sharable": false, "read_only": false, "other_config": map[string]string{}})
	eventually(t, "the SR's operation", func() bool { return len(c.record("SR", sr)["current_operations"].(map[string]any)) == 1 })
	c.call("task.cancel", task)
	eventually(t, "the end of the task", func() bool { return c.text("task.get_status", task) == "cancelled" })
	if got := c.list("task.get_error_info", task); !slices.Equal(got, []string{"TASK_CANCELLED", task}) {
		t.Errorf("error_info %v", got)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.raw")); err != nil || len(left) != 1 || len(c.list("VDI.get_all")) != 1 {
		t.Errorf("left over: %v, %v", left, err)
	}
}
