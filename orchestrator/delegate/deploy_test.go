package delegate_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/image/xva"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const putImport = "http/put_import"

// requestsAnImport is how often putImport is asked for by an import: which host takes it, then the upload.
const requestsAnImport = 2

// writeImage writes an XVA of a small disk with some noise in it.
func writeImage(t *testing.T, version string, change func(*xva.Appliance)) (path string) {
	t.Helper()
	disk := make([]byte, 4*mib)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(disk[:2*mib]) // never fails
	appliance := xva.Appliance{
		Name: "appliance", Version: version, Memory: 256 * mib, VCPUs: 1, Disk: xva.Disk{Name: "boot", Size: int64(len(disk)), Content: bytes.NewReader(disk)},
	}
	if change != nil {
		change(&appliance)
	}
	var out bytes.Buffer
	if err := xva.Write(&out, appliance); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "abd.xva")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// deployFixture is a pool into which nothing has been deployed yet.
func deployFixture(t *testing.T) *fixture {
	f := newFixture(t, processWorld(t), 3)
	f.call("VM.set_is_a_template", nil, f.template.Ref, false)
	f.call("VM.destroy", nil, f.template.Ref)
	vdi, err := xapi.GetByUUID(t.Context(), f.pool.API, "VDI", f.template.VDIs[0])
	if err != nil {
		t.Fatal(err)
	}
	f.call("VDI.destroy", nil, vdi)
	f.load()
	f.count = f.objects()
	return f
}

func (f *fixture) deploySpec(image string) delegate.DeploySpec {
	return delegate.DeploySpec{Pool: f.pool, SR: "shared", Image: image}
}

func (f *fixture) deploy(spec delegate.DeploySpec) delegate.Deployed {
	f.t.Helper()
	deployed, err := delegate.Deploy(f.t.Context(), spec)
	if err != nil {
		f.t.Fatal(err)
	}
	f.load()
	return deployed
}

// noRuns checks that every deployment's run has ended and left nothing behind.
func (f *fixture) noRuns() {
	f.t.Helper()
	runs, err := f.store.PendingRuns(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, run := range runs {
		if run.Kind == state.RunDeploy {
			f.t.Errorf("run %+v is pending", run.Report)
		}
	}
}

func (f *fixture) noTasks() {
	f.t.Helper()
	tasks, err := xapi.AllRecords[xapi.Task](f.t.Context(), f.pool.API, "task")
	if err != nil {
		f.t.Fatal(err)
	}
	for _, task := range tasks {
		if strings.Contains(task.NameLabel, "import") {
			f.t.Errorf("task %s (%s) is left", task.NameLabel, task.Status)
		}
	}
}

// TestDeploy deploys an image, and spawns a delegate of it.
func TestDeploy(t *testing.T) {
	t.Parallel()
	f := deployFixture(t)
	image := writeImage(t, "1.2.3", nil)
	content, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	if err := os.WriteFile(image+".sha256", fmt.Appendf(nil, "%x  abd.xva\n", sum), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := f.deploySpec(image)
	var last delegate.DeployProgress
	steps := map[string]bool{}
	spec.Observe = func(p delegate.DeployProgress) {
		if p.Size > 0 {
			last = p
		}
		steps[p.Step] = true
	}
	deployed := f.deploy(spec)
	if deployed.Version != "1.2.3" || deployed.Existing || deployed.Name != "Understudy delegate 1.2.3" || deployed.SHA256 != hex.EncodeToString(sum[:]) ||
		deployed.Network != "Pool-wide network 0" || deployed.Pool != "a" || deployed.SRName != "shared" || deployed.Duration <= 0 {
		t.Errorf("deployed %+v", deployed)
	}
	if size := int64(len(content)); last.Sent != size || last.Size != size || !steps["checking the image"] || !steps["completing the template"] {
		t.Errorf("observed %+v, %v", last, steps)
	}
	templates := f.pool.Inventory.DelegateTemplates()
	if len(templates) != 1 || templates[0].UUID != deployed.UUID || len(templates[0].VIFs) != 1 || templates[0].Tags[0] != replica.TagLeaveAlone ||
		templates[0].NameLabel != deployed.Name {
		t.Fatalf("templates %+v", templates)
	}
	installation := f.store.Installation().UUID
	disk := templates[0].Disks[0].VDI
	marker, ownership, err := replica.Read(installation, deployed.UUID, templates[0].OtherConfig)
	diskMarker, diskOwnership, diskErr := replica.Read(installation, disk.UUID, disk.OtherConfig)
	if ownership != replica.Ours || marker.Kind != replica.KindDelegateTemplate || diskOwnership != replica.Ours || diskMarker.Kind != replica.KindTemplateDisk {
		t.Errorf("marked %+v %v, its disk %+v %v", marker, err, diskMarker, diskErr)
	}
	f.noRuns()
	f.noTasks()
	f.count = f.objects()

	if again := f.deploy(spec); !again.Existing || again.UUID != deployed.UUID || f.sim.Calls(putImport) != requestsAnImport {
		t.Errorf("deployed again: %+v", again)
	}
	f.nothingLeft()

	d, err := f.spawner.Spawn(t.Context(), delegate.Spec{Pool: f.pool, Host: f.pool.Inventory.Coordinator, Template: templates[0].Ref})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Retire(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.nothingLeft()
}

// TestImagesRefused has images that no delegate can be made of: the pool sees nothing of them.
func TestImagesRefused(t *testing.T) {
	t.Parallel()
	f := deployFixture(t)
	rewrite := func(change func([]byte) []byte) func(string) {
		return func(path string) {
			content, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, change(content), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		version string
		change  func(*xva.Appliance)
		spoil   func(path string)
		texts   []string
	}{
		"truncated": {"1.0", nil, rewrite(func(b []byte) []byte { return b[:len(b)/2] }), []string{"truncated", "anew"}},
		"altered":   {"1.0", nil, rewrite(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), []string{"checksum"}},
		"no XVA":    {"1.0", nil, rewrite(func([]byte) []byte { return []byte(strings.Repeat("text", 1000)) }), []string{"neither a tar"}},
		"foreign": {"1.0", nil, rewrite(func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte(xva.KindDelegateTemplate), []byte(strings.Repeat("x", len(xva.KindDelegateTemplate))))
		}), []string{"no delegate's", "understudy:kind"}},
		"another hash": {"1.0", nil, func(path string) {
			if err := os.WriteFile(path+".sha256", []byte(strings.Repeat("0", 64)+"  abd.xva\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"altered", "000000"}},
		"no version":       {"a:b", nil, func(string) {}, []string{`"a:b"`}},
		"another protocol": {"1.0", func(a *xva.Appliance) { a.OtherConfig = map[string]string{inventory.KeyProtocol: "99"} }, func(string) {}, []string{"version 99"}},
	} {
		path := writeImage(t, c.version, c.change)
		c.spoil(path)
		_, err := delegate.Deploy(t.Context(), f.deploySpec(path))
		if !errors.Is(err, delegate.ErrImage) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		for _, text := range c.texts {
			if !strings.Contains(fmt.Sprint(err), text) {
				t.Errorf("%s: %q does not tell %q", name, err, text)
			}
		}
	}
	if _, err := delegate.Deploy(t.Context(), f.deploySpec(filepath.Join(t.TempDir(), "none"))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if n := f.sim.Calls(putImport) + f.sim.Calls("task.create"); n != 0 {
		t.Errorf("the pool saw %d calls", n)
	}
}

// TestUpgrade has older versions on the SR: ours, and one that another installation deployed.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	f := deployFixture(t)
	first := f.deploy(f.deploySpec(writeImage(t, "1.9", nil)))
	newer := writeImage(t, "1.10", nil)
	_, err := delegate.Deploy(t.Context(), f.deploySpec(newer))
	if !errors.Is(err, delegate.ErrVersion) || !strings.Contains(err.Error(), "1.9") || f.sim.Calls(putImport) != requestsAnImport {
		t.Errorf("without upgrade: %v", err)
	}
	foreign, err := f.sim.AddDelegateTemplate("shared", "0.5")
	if err != nil {
		t.Fatal(err)
	}
	f.setKey("VM", xapi.Ref(foreign.Ref), "understudy:self", foreign.UUID)
	before := f.objects()

	spec := f.deploySpec(newer)
	spec.Upgrade = true
	removal := f.faulty("VM.destroy")
	if _, err := delegate.Deploy(t.Context(), spec); !xapi.IsCode(err, "INTERNAL_ERROR") || !strings.Contains(err.Error(), "1.10 is complete") {
		t.Errorf("an upgrade that cannot remove: %v", err)
	}
	removal()
	second := f.deploy(spec) // goes on where the first was stopped
	if !second.Existing || second.Version != "1.10" || len(second.Removed) != 1 || second.Removed[0].UUID != first.UUID ||
		len(second.Kept) != 1 || second.Kept[0].UUID != foreign.UUID {
		t.Errorf("upgraded: %+v", second)
	}
	if now := f.objects(); fmt.Sprint(now) != fmt.Sprint(before) {
		t.Errorf("the pool has %v, it had %v", now, before)
	}
	if templates := f.pool.Inventory.DelegateTemplates(); len(templates) != 2 || templates[0].Version != "1.10" {
		t.Errorf("templates %+v", templates)
	}
	if _, err := delegate.Deploy(t.Context(), f.deploySpec(writeImage(t, "1.9.9", nil))); !errors.Is(err, delegate.ErrVersion) || !strings.Contains(err.Error(), "newer") {
		t.Errorf("a step back: %v", err)
	}
	f.noRuns()
}

func TestWhereToDeploy(t *testing.T) {
	t.Parallel()
	f := deployFixture(t)
	image := writeImage(t, "1.0", nil)
	var missing *inventory.NotFoundError
	for name, change := range map[string]func(*delegate.DeploySpec){
		"SR":      func(s *delegate.DeploySpec) { s.SR = "none" },
		"network": func(s *delegate.DeploySpec) { s.Network = "none" },
	} {
		spec := f.deploySpec(image)
		change(&spec)
		if _, err := delegate.Deploy(t.Context(), spec); !errors.As(err, &missing) || missing.Kind != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	for ref := range f.pool.Inventory.PBDs {
		f.call("PBD.unplug", nil, ref)
	}
	if _, err := delegate.Deploy(t.Context(), f.deploySpec(image)); err == nil || !strings.Contains(err.Error(), "plug its PBD") {
		t.Errorf("an SR that nobody sees: %v", err)
	}
	if n := f.sim.Calls("task.create"); n != 0 {
		t.Errorf("%d imports were begun", n)
	}
}

// TestDeployGoesWrong breaks a deployment at every step: nothing is left behind, and the next one succeeds.
func TestDeployGoesWrong(t *testing.T) {
	t.Parallel()
	f := deployFixture(t)
	spec := f.deploySpec(writeImage(t, "1.0", nil))
	failing := func(method string) xapisim.Rule {
		return xapisim.Rule{Method: method, Error: &xapisim.Error{Code: "INTERNAL_ERROR", Params: []string{"injected"}}}
	}
	for _, rule := range []xapisim.Rule{
		{Method: putImport, Cut: true}, {Method: putImport, CutAfter: mib}, failing(putImport), failing("task.create"),
		failing("VM.get_uuid"), failing("VIF.create"), failing("VM.set_name_label"), failing("VDI.add_to_other_config"), failing("VM.add_to_other_config"),
	} {
		remove := f.sim.Fault(rule)
		if _, err := delegate.Deploy(t.Context(), spec); err == nil {
			t.Errorf("%+v: no error", rule)
		}
		remove()
		f.nothingLeft()
		f.noRuns()
		f.noTasks()
	}
	f.deploy(spec)
}

// TestAnImageThatChanges has somebody put another image in the file's place between its check and its upload.
func TestAnImageThatChanges(t *testing.T) {
	t.Parallel()
	f := deployFixture(t)
	spec := f.deploySpec(writeImage(t, "1.0", nil))
	other, err := os.ReadFile(writeImage(t, "1.1", nil))
	if err != nil {
		t.Fatal(err)
	}
	spec.Observe = func(p delegate.DeployProgress) {
		if p.Step == "looking at the pool" {
			if err := os.WriteFile(spec.Image, other, 0o600); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := delegate.Deploy(t.Context(), spec); !errors.Is(err, delegate.ErrImage) || !strings.Contains(err.Error(), "changed while") {
		t.Errorf("got %v", err)
	}
	f.nothingLeft()
	f.noRuns()
}

// TestCancelADeployment leaves in the middle of the upload.
func TestCancelADeployment(t *testing.T) {
	t.Parallel()
	f := deployFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	spec := f.deploySpec(writeImage(t, "1.0", nil))
	spec.Observe = func(p delegate.DeployProgress) {
		if p.Sent > mib/2 {
			cancel()
		}
	}
	within(t, 5*time.Second, func() {
		if _, err := delegate.Deploy(ctx, spec); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	f.nothingLeft()
	f.noRuns()
	f.noTasks()
}

// TestADeploymentOutlastsAFailOver: the coordinator is replaced in the middle of the upload, and what the old one has made of it stays,
// for there is nobody who would remove it.
func TestADeploymentOutlastsAFailOver(t *testing.T) {
	t.Parallel()
	f := deployFixture(t)
	spec := f.deploySpec(writeImage(t, "1.0", nil))
	var once sync.Once
	left := false
	spec.Observe = func(p delegate.DeployProgress) {
		if p.Sent < mib/2 {
			return
		}
		once.Do(func() {
			for deadline := time.Now().Add(5 * time.Second); f.objects()["VDI"] == f.count["VDI"] && time.Now().Before(deadline); {
				time.Sleep(5 * time.Millisecond)
			}
			if err := f.sim.Promote(1); err != nil {
				t.Error(err)
			}
			left = f.objects()["VDI"] > f.count["VDI"]
		})
	}
	f.deploy(spec)
	if !left {
		t.Error("nothing of the first upload was left behind: the test shows nothing")
	}
	if templates := f.pool.Inventory.DelegateTemplates(); len(templates) != 1 || f.sim.Calls("http/put_import") < 4 {
		t.Errorf("%d templates after %d uploads and probes", len(templates), f.sim.Calls("http/put_import"))
	}
	for class := range f.objects() {
		f.count[class]++
	}
	f.nothingLeft()
	f.noRuns()
}

// TestADeploymentThatDied has a process that was killed, with what it had made recorded as intended only.
func TestADeploymentThatDied(t *testing.T) {
	t.Parallel()
	f := deployFixture(t)
	image := writeImage(t, "1.0", nil)
	content, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	sr, err := f.pool.Inventory.FindSR("shared")
	if err != nil {
		t.Fatal(err)
	}
	var task xapi.Ref
	f.call("task.create", &task, "Understudy: import", "")
	intent := state.Object{Run: f.spawner.Run, Pool: f.pool.Inventory.UUID, Class: "VM", Kind: string(replica.KindDelegateTemplate), Origin: string(task)}
	o, err := f.store.RecordIntent(t.Context(), intent)
	if err != nil {
		t.Fatal(err)
	}
	options := xapi.ImportOptions{SR: sr.Ref, Body: bytes.NewReader(content), Size: int64(len(content)), Task: task}
	refs, err := f.pool.API.Import(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	var copied xapi.Ref
	f.call("VM.clone", &copied, refs[0], "a copy of somebody")
	if err := f.undo(o); !errors.Is(err, delegate.ErrStranger) {
		t.Errorf("a copy that bears the same note: %v", err)
	}
	disk := f.bootDisk(copied)
	f.call("VM.destroy", nil, copied)
	f.call("VDI.destroy", nil, disk)
	if templates := inventoryOf(t, f).DelegateTemplates(); len(templates) != 0 {
		t.Errorf("a template that is not complete is offered: %+v", templates)
	}
	for range 2 {
		if err := f.undo(o); err != nil {
			t.Fatal(err)
		}
		f.nothingLeft()
	}
}

func inventoryOf(t *testing.T, f *fixture) *inventory.Pool {
	t.Helper()
	f.load()
	return f.pool.Inventory
}
