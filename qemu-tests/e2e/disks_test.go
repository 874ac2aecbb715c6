//go:build e2e

package e2e_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/qemu"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const mib = 1 << 20

// Disks of unusual kinds come and go in one delegate, which has its address by DHCP.
func TestDisks(t *testing.T) {
	t.Parallel()
	l := network(t)
	a := boot(t, qemu.Options{Network: l.Socket(), Direct: direct(t), BlockSize: 4096}, control.AddressDHCP, nil)
	d := &disks{appliance: a, client: a.meet(l), folder: folder(t)}
	var err error
	if d.key, err = manifest.NewKey(); err != nil {
		t.Fatal(err)
	}
	if err := d.client.SetKey(t.Context(), d.key); err != nil {
		t.Fatal(err)
	}
	for number, size := range map[int]int64{1: 8 * mib, 2: 8 * mib, 3: 8*mib + 4096, 4: 8*mib + 512, 14: 8 * mib} {
		d.plug(number, size, number == 2)
	}

	// Sectors of 4 KiB, and the highest number that a machine of this world is given here: what the delegate reads is what the file holds.
	for _, number := range []int{1, 14} {
		if device := d.device(number); device.SectorSize != 4096 || device.SizeBytes != 8*mib || device.ReadOnly {
			t.Errorf("disk %d is %+v", number, device)
		}
		if status := d.scan(number, 8*mib); status.State != control.StateDone || status.Root != d.root(number, 8*mib) {
			t.Errorf("scan of disk %d: %+v", number, status)
		}
	}
	// An odd size to its last byte; and one that ends within a sector, which no kernel can read: it is refused before anything is read.
	const odd, half, problem = 8*mib + 4096, 8*mib + 512, "its last 512 bytes; enlarge it to a multiple of 4096"
	if status := d.scan(3, odd); status.State != control.StateDone || status.Root != d.root(3, odd) {
		t.Errorf("scan of the odd disk: %+v", status)
	}
	if device := d.device(4); device.SizeBytes != 0 || !strings.Contains(device.Problem, problem) {
		t.Errorf("the disk that ends within a sector is %+v", device)
	}
	if status := d.scan(4, half); status.State != control.StateFailed || !strings.Contains(status.Error, problem) || status.Counters.Read != 0 {
		t.Errorf("scan of the disk that ends within a sector: %+v", status)
	}
	// Plugged read-only, promised writable.
	if device := d.device(2); !device.ReadOnly {
		t.Errorf("the read-only disk is %+v", device)
	}
	before := d.root(2, 8*mib)
	status := d.run(control.TaskSpec{
		ID: "copy", Kind: control.KindCopy, Device: 1, Target: 2, Size: 8 * mib, KeyID: d.key.ID(), Generation: manifest.NewGeneration(),
	})
	if status.State != control.StateFailed || !strings.Contains(status.Error, "plug it for writing") {
		t.Errorf("a copy onto a read-only disk: %+v", status)
	}
	if d.root(2, 8*mib) != before {
		t.Error("the read-only disk was written to")
	}
	d.tear()
	d.leave()
}

// disks is a delegate with the disks that a test gives it.
type disks struct {
	*appliance
	client *control.Client
	folder string
	key    manifest.Key
}

func (d *disks) path(number int) string {
	return filepath.Join(d.folder, strconv.Itoa(number)+".raw")
}

// plug makes a disk of noise and plugs it.
func (d *disks) plug(number int, size int64, readOnly bool) {
	d.t.Helper()
	noise := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(number)}).Read(noise)
	d.plugWith(number, noise, readOnly)
}

// plugWith makes a disk of a content and plugs it.
func (d *disks) plugWith(number int, content []byte, readOnly bool) {
	d.t.Helper()
	if err := os.WriteFile(d.path(number), content, 0o644); err != nil {
		d.t.Fatal(err)
	}
	disk := xapisim.Disk{UserDevice: strconv.Itoa(number), Path: d.path(number), ReadOnly: readOnly}
	if err := d.Plug(d.t.Context(), disk); err != nil {
		d.t.Fatal(err)
	}
}

// device waits until the delegate has seen a disk.
func (d *disks) device(number int) control.Device {
	d.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		devices, err := d.client.Devices(d.t.Context())
		if err != nil {
			d.t.Fatal(err)
		}
		for _, device := range devices {
			if device.Number == number {
				return device
			}
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("the delegate does not see disk %d: %+v\n%s", number, devices, d.console())
		}
	}
}

func (d *disks) run(spec control.TaskSpec) control.TaskStatus {
	d.t.Helper()
	if _, err := d.client.StartTask(d.t.Context(), spec); err != nil {
		d.t.Fatal(err)
	}
	status, err := d.client.WaitTask(limit(d.t, 2*time.Minute), spec.ID)
	if err != nil {
		d.t.Fatal(err)
	}
	return status
}

func (d *disks) scanSpec(number int, size int64) control.TaskSpec {
	return control.TaskSpec{ID: "scan-" + strconv.Itoa(number), Kind: control.KindScan, Device: number, Size: size, KeyID: d.key.ID()}
}

func (d *disks) scan(number int, size int64) control.TaskStatus {
	d.t.Helper()
	return d.run(d.scanSpec(number, size))
}

// root is that of a disk's file.
func (d *disks) root(number int, size int64) manifest.Digest {
	d.t.Helper()
	content, err := os.ReadFile(d.path(number))
	if err != nil {
		d.t.Fatal(err)
	}
	geometry := manifest.Geometry{Size: size}
	hasher := d.key.NewHasher()
	root := d.key.NewRoot(geometry)
	for extent := range geometry.Extents() {
		var blocks []manifest.Digest
		for offset := int64(extent) * manifest.ExtentSize; offset < min(int64(extent+1)*manifest.ExtentSize, size); offset += manifest.BlockSize {
			blocks = append(blocks, hasher.Block(content[offset:min(offset+manifest.BlockSize, size)]))
		}
		root.Add(hasher.Extent(blocks))
	}
	sum, err := root.Sum()
	if err != nil {
		d.t.Fatal(err)
	}
	return sum
}

// tear takes a disk away while the delegate reads it. The task ends and says why; the delegate lives, and takes the disk again.
func (d *disks) tear() {
	d.t.Helper()
	const number, size = 5, 1 << 30
	if err := os.WriteFile(d.path(number), nil, 0o644); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Truncate(d.path(number), size); err != nil {
		d.t.Fatal(err)
	}
	disk := xapisim.Disk{UserDevice: strconv.Itoa(number), Path: d.path(number)}
	if err := d.Plug(d.t.Context(), disk); err != nil {
		d.t.Fatal(err)
	}
	d.device(number)
	if _, err := d.client.StartTask(d.t.Context(), d.scanSpec(number, size)); err != nil {
		d.t.Fatal(err)
	}
	for read := int64(0); read == 0; time.Sleep(50 * time.Millisecond) {
		status, err := d.client.Task(d.t.Context(), "scan-5")
		if err != nil || status.State.Ended() {
			d.t.Fatalf("the scan does not run: %+v, %v", status, err)
		}
		read = status.Counters.Read
	}
	if err := d.Unplug(limit(d.t, time.Minute), strconv.Itoa(number)); err != nil {
		d.t.Fatal(err)
	}
	status, err := d.client.WaitTask(limit(d.t, time.Minute), "scan-5")
	if err != nil {
		d.t.Fatal(err)
	}
	if status.State != control.StateFailed || !strings.Contains(status.Error, "disk 5") {
		d.t.Errorf("a scan whose disk was torn away: %+v", status)
	}
	if err := d.Plug(d.t.Context(), disk); err != nil {
		d.t.Fatal(err)
	}
	if device := d.device(number); device.SizeBytes != size || device.Problem != "" {
		d.t.Errorf("the disk came back as %+v", device)
	}
}

// leave has every disk let go in order, and the delegate power itself off.
func (d *disks) leave() {
	d.t.Helper()
	for _, number := range []int{1, 2, 3, 4, 5, 14} {
		if err := d.client.Detach(d.t.Context(), number); err != nil {
			d.t.Error(err)
		}
		if err := d.Unplug(limit(d.t, time.Minute), strconv.Itoa(number)); err != nil {
			d.t.Error(err)
		}
	}
	if err := d.client.PowerOff(d.t.Context(), "the test is over"); err != nil {
		d.t.Error(err)
	}
	d.awaitEnd(time.Minute)
	if cause := d.await(control.CauseKey, time.Second); !strings.Contains(cause, "the test is over") {
		d.t.Errorf("cause %q", cause)
	}
}
