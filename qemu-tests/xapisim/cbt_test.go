package xapisim_test

import (
	"encoding/base64"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const kib = 1 << 10

// changed are the numbers of the blocks that list_changed_blocks gives.
func (c *client) changed(from, to string) []int {
	c.t.Helper()
	bitmap, err := base64.StdEncoding.DecodeString(c.text("VDI.list_changed_blocks", from, to))
	if err != nil {
		c.t.Fatal(err)
	}
	out := []int{}
	for n := range len(bitmap) * 8 {
		if bitmap[n/8]&(0x80>>(n%8)) != 0 {
			out = append(out, n)
		}
	}
	return out
}

func (c *client) wantChanged(from, to string, want ...int) {
	c.t.Helper()
	if got := c.changed(from, to); !slices.Equal(got, append([]int{}, want...)) {
		c.t.Errorf("changed blocks %v, want %v", got, want)
	}
}

func unrelated(c *client, from, to string) {
	c.t.Helper()
	c.refuse("SR_BACKEND_FAILURE_460", []string{
		"", "Failed to calculate changed blocks for given VDIs. [opterr=Source and target VDI are unrelated]", "",
	}, "VDI.list_changed_blocks", from, to)
}

func TestChangedBlocksOfRealWrites(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vdi := c.newVDI(c.one("SR", "shared"), 4*mib)
	c.write(pool, vdi, 10*64*kib, "before the log")
	c.call("VDI.enable_cbt", vdi)
	c.call("VDI.enable_cbt", vdi) // again: nothing happens
	first := c.text("VDI.snapshot", vdi)
	if c.call("VDI.get_cbt_enabled", first) != true || c.call("VDI.get_cbt_enabled", vdi) != true {
		t.Error("the snapshot or its disk is not tracked")
	}
	c.write(pool, vdi, 64*kib-1, "ab") // over a boundary
	c.write(pool, vdi, 63*64*kib, "end")
	c.write(pool, vdi, 10*64*kib, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00") // zeroed
	second := c.text("VDI.snapshot", vdi)
	c.write(pool, vdi, 5*64*kib, "later")
	c.wantChanged(first, second, 0, 1, 10, 63)
	c.wantChanged(second, vdi, 5)
	c.wantChanged(first, vdi, 0, 1, 5, 10, 63)
	if bitmap := c.text("VDI.list_changed_blocks", second, vdi); bitmap != "BAAAAAAAAAA=" { // 64 bits, the first the highest
		t.Errorf("bitmap %s", bitmap)
	}
	unrelated(c, second, first)
	c.refuse("SR_BACKEND_FAILURE_460", []string{
		"", "Failed to calculate changed blocks for given VDIs. [opterr=Source and target VDI are same]", "",
	}, "VDI.list_changed_blocks", first, first)
	unrelated(c, first, c.text("VDI.clone", vdi))
	unrelated(c, first, c.text("VDI.copy", vdi, c.one("SR", "shared")))

	c.call("VDI.resize", vdi, 6*mib)
	c.write(pool, vdi, 6*mib-1, "x")
	third := c.text("VDI.snapshot", vdi)
	c.wantChanged(second, third, 5, 95)
	c.call("VDI.destroy", second) // what it knew goes to its successor
	c.wantChanged(first, third, 0, 1, 5, 10, 63, 95)

	c.call("VDI.data_destroy", first)
	if record := c.record("VDI", first); record["type"] != "cbt_metadata" || record["snapshot_of"] != vdi || record["is_a_snapshot"] != true {
		t.Errorf("%v", record)
	}
	c.call("VDI.data_destroy", first)
	c.call("SR.scan", c.one("SR", "shared"))
	c.wantChanged(first, third, 0, 1, 5, 10, 63, 95)
	c.refuse("VDI_INCOMPATIBLE_TYPE", []string{first, "cbt_metadata"}, "VDI.clone", first)
	c.refuse("VDI_INCOMPATIBLE_TYPE", []string{first, "cbt_metadata"}, "VBD.create",
		vbd(c.vm(pool, xapisim.VMConfig{Name: "vm"}), first, "0", "RW"))

	c.call("VDI.disable_cbt", vdi)
	unrelated(c, third, vdi)
	c.wantChanged(first, third, 0, 1, 5, 10, 63, 95)
	c.call("VDI.enable_cbt", vdi)
	unrelated(c, third, vdi) // another chain
	c.call("VDI.destroy", first)
	unrelated(c, third, c.text("VDI.snapshot", vdi))
}

func TestCBTGates(t *testing.T) {
	pool := newPool(t, xapisim.Config{SRs: []xapisim.SRConfig{{Name: "nfs", Shared: true}, {Name: "zfs", Type: "zfs"},
		{Name: "raw", Type: "lvm", Garbage: true}}})
	c := connect(t, pool)
	sr := c.one("SR", "nfs")
	vdi := c.newVDI(sr, 1)
	c.refuse("OPERATION_NOT_ALLOWED", []string{"VDI is not a snapshot: " + vdi}, "VDI.data_destroy", vdi)
	untracked := c.text("VDI.snapshot", vdi)
	c.refuse("VDI_NO_CBT_METADATA", []string{untracked}, "VDI.data_destroy", untracked)
	c.refuse("OPERATION_NOT_ALLOWED", []string{"VDI is a snapshot: " + untracked}, "VDI.enable_cbt", untracked)
	c.refuse("SR_OPERATION_NOT_SUPPORTED", []string{c.one("SR", "zfs")}, "VDI.enable_cbt", c.newVDI(c.one("SR", "zfs"), 1))
	c.refuse("SR_BACKEND_FAILURE_66", nil, "VDI.enable_cbt", c.newVDI(c.one("SR", "raw"), 1))
	if err := pool.Restrict("CBT"); err != nil {
		t.Fatal(err)
	}
	c.refuse("LICENCE_RESTRICTION", []string{"CBT"}, "VDI.enable_cbt", vdi)
	if err := pool.Restrict(); err != nil {
		t.Fatal(err)
	}
	c.call("VDI.enable_cbt", vdi)
	c.refuse("VDI_CBT_ENABLED", []string{vdi}, "VDI.set_on_boot", vdi, "reset")
	snapshot := c.text("VDI.snapshot", vdi)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Running: true})
	eventually(t, "drivers", func() bool { return c.call("VM.get_guest_metrics", vm) != nullRef })
	link := c.newVBD(vm, vdi, "0", "RW")
	eventually(t, "a plug", func() bool { _, err := c.try("VBD.plug", link); return err == nil })
	c.refuse("VDI_IN_USE", []string{vdi, "list_changed_blocks"}, "VDI.list_changed_blocks", snapshot, vdi)
	reader := c.newVBD(vm, snapshot, "1", "RW")
	task := c.text("Async.VDI.data_destroy", snapshot) // waits for the VBD to go
	eventually(t, "the operation", func() bool { return c.text("VDI.get_type", snapshot) == "cbt_metadata" })
	c.call("VBD.destroy", reader)
	eventually(t, "the task", func() bool { return c.text("task.get_status", task) == "success" })
	if allowed := c.list("VDI.get_allowed_operations", snapshot); slices.Contains(allowed, "clone") || !slices.Contains(allowed, "destroy") {
		t.Errorf("allowed %v", allowed)
	}
}

// Whatever is written, snapshotted, destroyed and stripped of its data, the bitmap of any pair that is in order names
// every block that differs.
func TestNoChangeIsMissed(t *testing.T) {
	pool := newPool(t, xapisim.Config{CoalesceDelay: -1})
	c := connect(t, pool)
	vdi := c.newVDI(c.one("SR", "shared"), 2*mib)
	c.call("VDI.enable_cbt", vdi)
	disk, err := os.OpenFile(c.path(pool, vdi), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close() // each write is checked
	chance := rand.New(rand.NewPCG(1, 2))
	now, state := make([]byte, 32), map[string][]byte{} // the first byte of each block: of the disk, and of what was made of it
	var chain []string
	for step := range 24 {
		for range chance.IntN(4) {
			block := chance.Int64N(32)
			now[block] = []byte{'a', 'b', 0}[chance.IntN(3)]
			if _, err := disk.WriteAt(now[block:block+1], block*64*kib); err != nil {
				t.Fatal(err)
			}
		}
		made := c.text("VDI.snapshot", vdi)
		chain, state[made] = append(chain, made), slices.Clone(now)
		switch n := chance.IntN(len(chain)); {
		case len(chain) > 4:
			c.call("VDI.destroy", chain[n])
			chain = slices.Delete(chain, n, n+1)
			pool.Coalesce()
		case step%3 == 0:
			c.call("VDI.data_destroy", chain[n])
		}
		to := chain[len(chain)-1]
		for _, from := range chain[:len(chain)-1] {
			told := c.changed(from, to)
			for block := range 32 {
				if state[from][block] != state[to][block] && !slices.Contains(told, block) {
					t.Fatalf("step %d: block %d differs, told are %v", step, block, told)
				}
			}
		}
	}
}
