package xapisim_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// A restored VM is the one that was exported, and takes its place only when that is older, or by force.
func TestRestore(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm, contents := c.guest(t, pool)
	uuid, mac, seed := c.text("VM.get_uuid", vm), c.text("VIF.get_MAC", c.list("VM.get_VIFs", vm)[0]), c.call("VM.get_other_config", vm).(map[string]any)["mac_seed"]
	_, file, _ := c.exchange(http.MethodGet, pool.Address(), "/export", url.Values{"ref": {vm}}, nil)
	put := func(pool *xapisim.Pool, c *client, query url.Values) map[string]any {
		t.Helper()
		_, _, task := c.exchange(http.MethodPut, pool.Address(), "/import", query, file)
		return task
	}
	other := newPool(t, xapisim.Config{})
	restored := connect(t, other).imported(put(other, connect(t, other), url.Values{"restore": {"true"}}))
	o := connect(t, other)
	if o.text("VM.get_uuid", restored) != uuid || o.text("VIF.get_MAC", o.list("VM.get_VIFs", restored)[0]) != mac || o.call("VM.get_other_config", restored).(map[string]any)["mac_seed"] != seed {
		t.Errorf("%v", o.record("VM", restored))
	}
	if info := errorInfo(put(pool, c, url.Values{"restore": {"true"}})); !slices.Equal(info, []string{"VM_TO_IMPORT_IS_NOT_NEWER_VERSION", vm, "0", "0"}) {
		t.Errorf("%q", info)
	}
	c.call("VM.start", vm, false, false)
	if info := errorInfo(put(pool, c, url.Values{"restore": {"true"}, "force": {"true"}})); !slices.Equal(info, []string{"VM_BAD_POWER_STATE", vm, "halted", "running"}) {
		t.Errorf("%q", info)
	}
	c.call("VM.hard_shutdown", vm)
	again := c.imported(put(pool, c, url.Values{"restore": {"true"}, "force": {"true"}}))
	if again == vm || c.text("VM.get_uuid", again) != uuid || len(c.list("VM.get_by_name_label", "a guest & <more>")) != 1 {
		t.Error("the VM was not replaced")
	}
	for _, ref := range c.list("VM.get_VBDs", again) {
		if device := c.text("VBD.get_userdevice", ref); device == "1" && !bytes.Equal(read(t, c.path(pool, c.text("VBD.get_VDI", ref))), contents[1]) {
			t.Error("another disk was restored")
		}
	}
	// A stranger with the same seed would have the same addresses.
	c.call("VM.remove_from_other_config", again, "mac_seed")
	c.call("VM.add_to_other_config", c.text("VM.clone", again, "stranger"), "x", "y")
	stranger := c.one("VM", "stranger")
	c.call("VM.remove_from_other_config", stranger, "mac_seed")
	c.call("VM.add_to_other_config", stranger, "mac_seed", seed)
	if info := errorInfo(put(pool, c, url.Values{"restore": {"true"}, "force": {"true"}})); !slices.Equal(info, []string{"DUPLICATE_MAC_SEED", seed.(string)}) {
		t.Errorf("%q", info)
	}
}

// With force wrong checksums do not matter, and what was made before a failure stays.
func TestForce(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	content := imageContent(t, 4*mib)
	file := image(t, content)
	first := bytes.Index(file, []byte("Ref:0003/00000000\x00"))
	altered := damage(file, func(b []byte) { b[first+512+77] ^= 1 })
	_, _, task := c.exchange(http.MethodPut, pool.Address(), "/import", url.Values{"force": {"true"}}, altered)
	vm := c.imported(task)
	content[77] ^= 1
	if !bytes.Equal(read(t, c.path(pool, c.text("VBD.get_VDI", c.list("VM.get_VBDs", vm)[0]))), content) {
		t.Error("another content")
	}
	second := bytes.Index(file, []byte("Ref:0003/00000003\x00"))
	_, _, task = c.exchange(http.MethodPut, pool.Address(), "/import", url.Values{"force": {"true"}}, slices.Concat(file[:second], make([]byte, 1024)))
	if left := c.list("VM.get_by_name_label", "Understudy delegate"); task["status"] != "failure" || len(left) != 2 {
		t.Errorf("%v: %d VMs", task, len(left))
	}
}

// A file with a VM and its snapshot: both come in, linked, and the VM alone is the outcome.
func TestImportOfSnapshots(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	added, err := pool.AddVM(xapisim.VMConfig{Name: "diskless"})
	if err != nil {
		t.Fatal(err)
	}
	c.call("VM.snapshot", added.Ref, "snapshot", []string{})
	_, file, _ := c.exchange(http.MethodGet, pool.Address(), "/export_metadata", url.Values{"ref": {added.Ref}}, nil)
	vm := c.imported(c.upload(pool, c.one("SR", "shared"), file))
	snapshots := c.list("VM.get_snapshots", vm)
	if len(snapshots) != 1 || c.call("VM.get_is_a_snapshot", snapshots[0]) != true || c.text("VM.get_snapshot_of", snapshots[0]) != vm || vm == added.Ref || c.text("VM.get_parent", vm) != snapshots[0] {
		t.Errorf("%v", snapshots)
	}
}

// FuzzImport: whatever comes, the pool goes on, and a failed import leaves nothing. The metadata are fuzzed in a sound
// archive, so that the fuzzer gets to them.
func FuzzImport(f *testing.F) {
	var whole bytes.Buffer
	pool, err := xapisim.New(xapisim.Config{Dir: f.TempDir(), SRs: []xapisim.SRConfig{{Name: "sr", Shared: true}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(pool.Close)
	added, err := pool.AddVM(xapisim.VMConfig{Name: "diskless"})
	if err != nil {
		f.Fatal(err)
	}
	if err := pool.ExportMetadata(&whole, added.Ref); err != nil {
		f.Fatal(err)
	}
	archive := tar.NewReader(&whole)
	if _, err := archive.Next(); err != nil {
		f.Fatal(err)
	}
	text, err := io.ReadAll(archive)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, false, false)
	f.Add(bytes.Replace(text, []byte("<name>class</name><value>VIF"), []byte("<name>class</name><value>VBD"), 1), true, false)
	f.Add(bytes.Replace(text, []byte("<name>VCPUs_max</name>"), []byte("<name>x</name>"), 1), false, true)
	f.Fuzz(func(t *testing.T, text []byte, restore, force bool) {
		var file bytes.Buffer
		w := tar.NewWriter(&file)
		err := w.WriteHeader(&tar.Header{Name: "ova.xml", Size: int64(len(text)), Mode: 0o600})
		if err == nil {
			_, err = w.Write(text)
		}
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		before := pool.Objects()
		if err := pool.Import(&file, "sr", restore, force); err != nil && !force {
			if after := pool.Objects(); after > before || after < before && !restore { // the VM to be replaced may be gone
				t.Fatalf("%v: %d objects, before %d", err, after, before)
			}
		}
	})
}
