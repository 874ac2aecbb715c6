package xapisim_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func tell(t *testing.T, pool *xapisim.Pool, lie string) {
	t.Helper()
	l, err := xapisim.ParseLie([]byte(lie))
	if err == nil {
		err = pool.Lie(l)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// twoDisks is a running VM called vm with the disks "vm 0" and "vm 1".
func twoDisks(t *testing.T, pool *xapisim.Pool) xapisim.Added {
	t.Helper()
	vm, err := pool.AddVM(xapisim.VMConfig{Name: "vm", Running: true, Disks: []xapisim.DiskConfig{{Size: 4 * mib}, {Size: 4 * mib}}})
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// different counts the blocks in which two files differ.
func different(t *testing.T, a, b []byte) int {
	t.Helper()
	n := 0
	for at := 0; at < max(len(a), len(b)); at += 64 * kib {
		if !bytes.Equal(a[at:at+64*kib], b[at:at+64*kib]) {
			n++
		}
	}
	return n
}

func TestLiesThatCannotBe(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	for text, want := range map[string]string{
		`{"kind":"fib","object":"x"}`:                  "there is no lie",
		`{"kind":"fill"}`:                              "object is missing",
		`{"kind":"fill","object":"shared","fre":1}`:    "no such member",
		`{"kind":"fill","kind":"fill"}`:                "comes twice",
		`{"kind":"fill","object":"shared","free":"1"}`: "a number of bytes",
		`null`:                                 "want an object",
		`{"kind":"fill","object":"shared"} {}`: "follows",
		`{"kind":"lost-writes","object":"shared","keep":1.5}`:    "0 to 1",
		`{"kind":"torn-snapshot","object":"shared","count":-1}`:  "negative",
		`{"kind":"torn-snapshot","object":"shared"}`:             "no VM called",
		`{"kind":"garbage","object":"shared"}`:                   "read as zeroes",
		`{"kind":"stranger","object":"nobody's disk","count":1}`: "no VDI called",
	} {
		l, err := xapisim.ParseLie([]byte(text))
		if err == nil {
			err = pool.Lie(l)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestWritesAreLostWithThePower(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	tell(t, pool, `{"kind":"lost-writes","object":"shared"}`)
	vm := twoDisks(t, pool)
	disks := []string{c.text("VDI.get_by_uuid", vm.VDIs[0]), c.text("VDI.get_by_uuid", vm.VDIs[1])}
	c.call("VDI.enable_cbt", disks[0])
	c.write(pool, disks[0], 0, "flushed")
	if err := pool.Flushed(vm.VDIs[0]); err != nil {
		t.Fatal(err)
	}
	c.write(pool, disks[0], mib, "not flushed")
	c.write(pool, disks[1], 0, "snapshotted")
	snapshot := c.text("VDI.snapshot", disks[1])
	c.write(pool, disks[1], 0, "overwritten")
	tell(t, pool, `{"kind":"power-loss","object":"vm"}`)
	first, second := read(t, pool.VDIPath(vm.VDIs[0])), read(t, pool.VDIPath(vm.VDIs[1]))
	if !bytes.HasPrefix(first, []byte("flushed")) || bytes.Contains(first, []byte("not flushed")) {
		t.Error("the first disk is not as it was flushed")
	}
	if !bytes.Equal(second, read(t, c.path(pool, snapshot))) {
		t.Error("the second disk is not as it was at its snapshot")
	}
	if state := c.text("VM.get_power_state", vm.Ref); state != "Halted" {
		t.Errorf("the VM is %s", state)
	}
	// The log was not closed: the next attachment finds that.
	c.call("VM.start", vm.Ref, false, false)
	if c.call("VDI.get_cbt_enabled", disks[0]) != false {
		t.Error("a disk is tracked still, with a log that is wrong")
	}
	messages, _ := c.call("message.get", "VDI", vm.VDIs[0], "19700101T00:00:00Z").(map[string]any)
	for _, message := range messages {
		if name := message.(map[string]any)["name"]; name != "VDI_CBT_METADATA_INCONSISTENT" {
			t.Errorf("message %v", name)
		}
	}
	if len(messages) != 1 {
		t.Errorf("%d messages", len(messages))
	}
	// Writes that are let go in order are not lost.
	c.write(pool, disks[0], 2*mib, "in order")
	c.call("VM.hard_shutdown", vm.Ref)
	c.call("VM.start", vm.Ref, false, false)
	tell(t, pool, `{"kind":"power-loss","object":"vm"}`)
	if !bytes.Contains(read(t, pool.VDIPath(vm.VDIs[0])), []byte("in order")) {
		t.Error("a write before an orderly end is lost")
	}
}

func TestSomeWritesSurvive(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := twoDisks(t, pool)
	tell(t, pool, `{"kind":"lost-writes","object":"vm 0","keep":0.5,"seed":7}`)
	c.call("VM.hard_shutdown", vm.Ref)
	c.call("VM.start", vm.Ref, false, false)
	empty := read(t, pool.VDIPath(vm.VDIs[0]))
	disk := c.text("VDI.get_by_uuid", vm.VDIs[0])
	for block := range int64(64) {
		c.write(pool, disk, block*64*kib, "new")
	}
	tell(t, pool, `{"kind":"power-loss","object":"vm"}`)
	if n := different(t, empty, read(t, pool.VDIPath(vm.VDIs[0]))); n < 16 || n > 48 {
		t.Errorf("%d of 64 blocks have survived, want about half", n)
	}
}

func TestTornSnapshot(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := twoDisks(t, pool)
	tell(t, pool, `{"kind":"torn-snapshot","object":"vm","blocks":3,"count":1}`)
	before := read(t, pool.VDIPath(vm.VDIs[1]))
	snapshots := func(name string) map[string][]byte {
		out := map[string][]byte{}
		for _, vbd := range c.list("VM.get_VBDs", c.text("VM.snapshot", vm.Ref, name)) {
			out[c.text("VBD.get_userdevice", vbd)] = read(t, c.path(pool, c.text("VBD.get_VDI", vbd)))
		}
		return out
	}
	c.call("VM.pause", vm.Ref) // its guest stands still
	if n := different(t, before, snapshots("paused")["1"]); n != 0 {
		t.Errorf("a paused VM has written %d blocks", n)
	}
	c.call("VM.unpause", vm.Ref)
	torn := snapshots("running")
	if a, b := different(t, before, torn["0"]), different(t, before, torn["1"]); a != 0 || b != 3 {
		t.Errorf("%d and %d blocks were written before the snapshots, want 0 and 3", a, b)
	}
}

func TestAMissingBit(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vdi := c.newVDI(c.one("SR", "shared"), 2*mib)
	c.call("VDI.enable_cbt", vdi)
	from := c.text("VDI.snapshot", vdi)
	for block := range int64(5) {
		c.write(pool, vdi, block*64*kib, "x")
	}
	tell(t, pool, `{"kind":"missing-bit","object":"shared","count":1}`)
	if told := c.changed(from, vdi); len(told) != 4 {
		t.Errorf("told %v", told)
	}
	c.wantChanged(from, vdi, 0, 1, 2, 3, 4)
}

func TestAnSRFillsUp(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	sr := c.one("SR", "shared")
	vdi := c.newVDI(sr, 2*mib)
	tell(t, pool, `{"kind":"fill","object":"shared","free":1048576}`)
	c.refuse("SR_BACKEND_FAILURE_44", nil, "VDI.snapshot", vdi)
	c.refuse("SR_BACKEND_FAILURE_44", nil, "VDI.clone", vdi)
	tell(t, pool, `{"kind":"fill","object":"shared","free":1073741824}`)
	c.call("VDI.snapshot", vdi)
}

func TestUsersAndStrangers(t *testing.T) {
	pool := newPool(t, xapisim.Config{CoalesceDelay: -1})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 4 * mib}}, OtherConfig: map[string]string{"marker": "of vm"}})
	disk := func() string { return c.text("VBD.get_VDI", c.list("VM.get_VBDs", vm)[0]) }
	snapshot := c.text("VM.snapshot", vm, "snapshot")
	before, old := read(t, c.path(pool, disk())), disk()
	tell(t, pool, `{"kind":"stranger","object":"vm 0","blocks":2}`)
	if n := different(t, before, read(t, c.path(pool, disk()))); n != 2 {
		t.Errorf("%d blocks written", n)
	}
	if got := c.list("VDI.get_VBDs", disk()); len(got) != 1 || len(c.list("VM.get_by_name_label", "stranger")) != 0 {
		t.Error("the stranger has not gone")
	}
	tell(t, pool, `{"kind":"user-clone","object":"vm"}`)
	if config := c.record("VM", c.one("VM", "Copy of vm"))["other_config"].(map[string]any); config["marker"] != "of vm" {
		t.Errorf("the clone's other_config %v", config)
	}
	tell(t, pool, `{"kind":"user-revert","object":"vm"}`)
	if disk() == old || !bytes.Equal(before, read(t, c.path(pool, disk()))) || !slices.Equal(c.list("VM.get_snapshots", vm), []string{snapshot}) {
		t.Error("the VM is not as it was at its snapshot")
	}
	c.call("VM.start", vm, false, false)
	if err := pool.Lie(xapisim.Lie{Kind: "stranger", Object: c.text("VDI.get_uuid", disk())}); err == nil || !strings.Contains(err.Error(), "VDI_IN_USE") {
		t.Errorf("a stranger got at a disk that is attached: %v", err)
	}
}

func TestGarbageFromNowOn(t *testing.T) {
	pool := newPool(t, xapisim.Config{SRs: []xapisim.SRConfig{{Name: "lvm", Type: "lvm"}}})
	c := connect(t, pool)
	tell(t, pool, `{"kind":"garbage","object":"lvm","count":1}`)
	for _, zero := range []bool{false, true} {
		content := read(t, c.path(pool, c.newVDI(c.one("SR"), 2*mib)))
		if got := bytes.Count(content, []byte{0}) == len(content); got != zero {
			t.Errorf("a volume reads as zeroes: %v", got)
		}
	}
}
