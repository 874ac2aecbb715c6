package xapisim_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/understudy-dr/understudy/image/xva"
	"github.com/understudy-dr/understudy/qemu-tests/worlds"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// imageContent is an appliance's disk: data at both ends, zeroes between.
func imageContent(t *testing.T, size int) []byte {
	t.Helper()
	content := make([]byte, size)
	for _, at := range []int{0, size - mib} {
		if _, err := rand.Read(content[at : at+mib]); err != nil {
			t.Fatal(err)
		}
	}
	return content
}

func image(t *testing.T, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := xva.Write(&out, xva.Appliance{
		Name: "Understudy delegate", Description: "appliance", Version: "1.2.3", Memory: 256 * mib, VCPUs: 2, Firmware: "uefi", Tags: []string{"tag"},
		Disk: xva.Disk{Name: "boot", Size: int64(len(content)), Content: bytes.NewReader(content)},
	}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// put sends a request to /import of an address and reads the answer to its end. The body is taken as it is; a reader that
// never ends keeps the connection open.
func (c *client) put(address string, query url.Values, body io.Reader, size int64, change ...func(*http.Request)) (*http.Response, string) {
	c.t.Helper()
	request, err := http.NewRequestWithContext(c.t.Context(), http.MethodPut, "https://"+address+"/import?"+query.Encode(), body)
	if err != nil {
		c.t.Fatal(err)
	}
	request.ContentLength = size
	for _, f := range change {
		f(request)
	}
	direct := *c.http
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := direct.Do(request)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		c.t.Fatal(err)
	}
	return response, string(answer)
}

// upload imports a file under a task of its own and gives the task's record when it has finished.
func (c *client) upload(pool *xapisim.Pool, sr string, file []byte) map[string]any {
	c.t.Helper()
	task := c.text("task.create", "import", "")
	response, _ := c.put(pool.Address(), url.Values{"session_id": {c.session}, "task_id": {task}, "sr_id": {sr}}, bytes.NewReader(file), int64(len(file)))
	if response.StatusCode != http.StatusOK || response.Header.Get("task-id") != task || !response.Close || response.Header.Get("Content-Type") != "application/octet-stream" {
		c.t.Errorf("%s %v", response.Status, response.Header)
	}
	return c.finished(task)
}

func (c *client) finished(task string) map[string]any {
	c.t.Helper()
	eventually(c.t, "the end of the task", func() bool { return c.text("task.get_status", task) != "pending" })
	return c.record("task", task)
}

// imported is the VM of an import that went well.
func (c *client) imported(task map[string]any) string {
	c.t.Helper()
	result, _ := task["result"].(string)
	ref, ok := strings.CutPrefix(result, "<value><array><data><value>")
	ref, end := strings.CutSuffix(ref, "</value></data></array></value>")
	if !ok || !end || task["status"] != "success" {
		c.t.Fatalf("%v", task)
	}
	return ref
}

func TestImport(t *testing.T) {
	pool := newPool(t, xapisim.Config{SRs: []xapisim.SRConfig{{Name: "shared", Shared: true}, {Name: "raw", Type: "lvm", Garbage: true}}})
	c := connect(t, pool)
	content := imageContent(t, 8*mib)
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(image(t, content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	seeds := map[any]bool{}
	for sr, file := range map[string][]byte{"shared": image(t, content), "raw": packed.Bytes()} {
		task := c.upload(pool, c.one("SR", sr), file)
		if config := task["other_config"].(map[string]any); config["object_creation"] != "complete" {
			t.Errorf("%v", task)
		}
		vm := c.imported(task)
		record := c.record("VM", vm)
		config, platform, boot := record["other_config"].(map[string]any), record["platform"].(map[string]any), record["HVM_boot_params"].(map[string]any)
		if record["is_a_template"] != true || record["power_state"] != "Halted" || record["name_label"] != "Understudy delegate" || record["domain_type"] != "hvm" ||
			record["has_vendor_device"] != false || boot["order"] != "c" || boot["firmware"] != "uefi" || platform["device-model"] != "qemu-upstream-uefi" ||
			config["understudy:kind"] != "delegate-template" || config["understudy:version"] != "1.2.3" || !strings.HasPrefix(config["import_task"].(string), "OpaqueRef:") ||
			len(record["current_operations"].(map[string]any)) != 0 || len(record["VIFs"].([]any)) != 0 || record["metrics"] == nullRef {
			t.Errorf("%v", record)
		}
		seeds[config["mac_seed"]] = true
		vbds := c.list("VM.get_VBDs", vm)
		if len(vbds) != 1 {
			t.Fatalf("%d VBDs", len(vbds))
		}
		vdi := c.text("VBD.get_VDI", vbds[0])
		if !bytes.Equal(read(t, c.path(pool, vdi)), content) {
			t.Errorf("%s: the disk holds something else", sr)
		}
		disk := c.record("VDI", vdi)
		if disk["name_label"] != "boot" || disk["SR"] != c.one("SR", sr) || disk["sm_config"].(map[string]any)["import_task"] != config["import_task"] || len(disk["current_operations"].(map[string]any)) != 0 {
			t.Errorf("%v", disk)
		}
		seeds[record["uuid"]] = true
	}
	if len(seeds) != 4 || seeds[""] || seeds[nil] {
		t.Errorf("uuids and seeds %v", seeds)
	}
	if got := pool.Calls("http/put_import"); got != 2 {
		t.Errorf("%d uploads counted", got)
	}
}

// What a pool exported has a VIF, of a network that is known here or is made.
func TestImportOfAnExport(t *testing.T) {
	file, err := os.ReadFile("../../image/xva/testdata/exported-by-xapi.xva.zst")
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"Pool-wide network 0", "another"} {
		pool := newPool(t, xapisim.Config{Networks: []string{network}})
		c := connect(t, pool)
		if network == "another" { // nor does its bridge have the name
			for ref := range c.call("network.get_all_records").(map[string]any) {
				if c.text("network.get_bridge", ref) != "xenbr0" {
					t.Fatal("the test's network has another bridge")
				}
			}
		}
		vm := c.imported(c.upload(pool, c.one("SR", "shared"), file))
		vifs := c.list("VM.get_VIFs", vm)
		if len(vifs) != 1 {
			t.Fatalf("%d VIFs", len(vifs))
		}
		vif := c.record("VIF", vifs[0])
		if vif["MAC"] == "ca:89:a8:d5:e8:5c" || vif["network"] != c.one("network", network) {
			t.Errorf("%v", vif)
		}
		if got := c.text("VM.get_name_label", vm); got != "exp1" || c.call("VM.get_is_a_template", vm) != false {
			t.Errorf("%s", got)
		}
		c.call("VM.start", vm, false, false)
		c.awaitDrivers(vm)
	}
}

func TestImportMakesAMissingNetwork(t *testing.T) {
	pool := newPool(t, xapisim.Config{Networks: []string{"a", "b"}})
	c := connect(t, pool)
	var file bytes.Buffer
	exported, err := os.Open("../../image/xva/testdata/exported-by-xapi.xva.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer exported.Close()
	plain, err := gzip.NewReader(exported)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.ReadFrom(plain); err != nil {
		t.Fatal(err)
	}
	// Of the same length, so that the archive stays whole.
	renamed := bytes.Replace(file.Bytes(), []byte("<value>xenbr0</value>"), []byte("<value>xenbr9</value>"), 1)
	vm := c.imported(c.upload(pool, c.one("SR", "shared"), renamed))
	network := c.record("network", c.text("VIF.get_network", c.list("VM.get_VIFs", vm)[0]))
	if network["name_label"] != "Pool-wide network 0" || len(network["PIFs"].([]any)) != 0 || network["other_config"].(map[string]any)["import_task"] == nil {
		t.Errorf("%v", network)
	}
}

// A clone of what was imported is a delegate: it starts in the pool's world, with the imported disk and the VIF's address.
func TestImportedDelegateStarts(t *testing.T) {
	world := &recordingWorld{World: worlds.NewProcess(os.Args[0], t.TempDir())}
	pool := newPool(t, xapisim.Config{World: world, Networks: []string{"Pool-wide network 0"}})
	c := connect(t, pool)
	content := imageContent(t, 4*mib)
	template := c.imported(c.upload(pool, c.one("SR", "shared"), image(t, content)))
	network := c.one("network")
	c.call("network.set_MTU", network, 9000)
	for _, device := range []string{"10", "2"} {
		c.text("VIF.create", vif(template, network, device))
	}
	vm := c.spawn(template, "")
	eventually(t, "the identity", func() bool { return c.identity(vm) != "" })
	machine := world.last()
	if len(machine.Disks) != 1 || !bytes.Equal(read(t, machine.Disks[0].Path)[mib:], content[mib:]) || // the stand-in marks the beginning
		machine.Firmware != "uefi" || machine.VCPUs != 2 || machine.Memory != 256*mib {
		t.Errorf("%+v", machine)
	}
	var want []xapisim.VIF
	for _, device := range []string{"2", "10"} {
		for _, ref := range c.list("VM.get_VIFs", vm) {
			if c.text("VIF.get_device", ref) == device {
				want = append(want, xapisim.VIF{Device: device, MAC: c.text("VIF.get_MAC", ref), MTU: 9000})
			}
		}
	}
	if len(machine.VIFs) != 2 || machine.VIFs[0] != want[0] || machine.VIFs[1] != want[1] || want[0].MAC == want[1].MAC {
		t.Errorf("VIFs %v, want %v", machine.VIFs, want)
	}
	c.call("VM.hard_shutdown", vm)
}

// The calls that deploying makes after an import.
func TestDeployingCalls(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	template := c.imported(c.upload(pool, c.one("SR", "shared"), image(t, imageContent(t, 2*mib))))
	c.call("VM.set_name_label", template, "Understudy delegate 1.2.3")
	c.call("VM.set_name_description", template, "text")
	c.call("VM.add_tags", template, "other")
	c.call("VM.add_to_other_config", template, "understudy:self", c.text("VM.get_uuid", template))
	c.call("VM.remove_from_other_config", template, "import_task")
	for _, class := range []string{"pool", "SR", "network", "PIF", "host", "PBD", "task", "VM"} {
		if records, ok := c.call(class + ".get_all_records").(map[string]any); !ok || len(records) == 0 {
			t.Errorf("%s.get_all_records: %v", class, records)
		}
	}
	interf := c.text("VIF.create", vif(template, c.one("network"), "0"))
	if mac := c.text("VIF.get_MAC", interf); mac == "" {
		t.Error("no MAC was drawn")
	}
	c.call("VIF.destroy", interf)
	vdi := c.text("VBD.get_VDI", c.list("VM.get_VBDs", template)[0])
	c.call("VM.destroy", template)
	c.call("VDI.destroy", vdi)
	for _, task := range c.list("task.get_all") {
		c.call("task.destroy", task)
	}
	if left := c.list("task.get_all"); len(left) != 0 {
		t.Errorf("%v", left)
	}
}

func vif(vm, network, device string) map[string]any {
	return map[string]any{
		"VM": vm, "network": network, "device": device, "MAC": "", "MTU": 1500, "other_config": map[string]string{},
		"qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
	}
}
