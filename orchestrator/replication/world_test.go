package replication_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/state/statetest"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/worlds"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const mib = 1 << 20

// abd is the program that delegates run, and impatientABD the same with little patience for one that does not answer.
var abd, impatientABD string

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		if err := child(context.Background(), dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "understudy-replication-")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// Most of a run is waiting for delegates to boot and halt; of too many at once the pools' looking after them takes the time.
	if err := flag.Set("test.parallel", "4"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	debug.SetGCPercent(400) // what a test needs is small
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// build builds the delegate's program. It is started through a script, since test folders may lie on a file system without
// direct I/O.
func build(dir string) error {
	program := filepath.Join(dir, "abd")
	command := exec.Command("go", "build", "-o", program, "github.com/understudy-dr/understudy/cmd/abd")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("go build cmd/abd: %w\n%s", err, out)
	}
	abd = filepath.Join(dir, "abd.sh")
	impatientABD = filepath.Join(dir, "impatient.sh")
	err := os.WriteFile(impatientABD, fmt.Appendf(nil, "#!/bin/sh\nexec '%s' --buffered --peer-wait 2s \"$@\"\n", program), 0o700)
	return errors.Join(err, os.WriteFile(abd, fmt.Appendf(nil, "#!/bin/sh\nexec '%s' --buffered \"$@\"\n", program), 0o700))
}

// world is two simulated pools and an orchestrator.
type world struct {
	*testing.T
	bare       bool
	dir        string               // of the orchestrator's state
	world      func() xapisim.World // of a pool's guests
	simA, simB *xapisim.Pool
	a, b       *delegate.Pool
	store      *state.Store
	engine     *replication.Engine
	guests     xapisim.World // see layout
	vm         xapisim.Added
	request    replication.Request
}

// plan of a world. Zero members take what stands beside them.
type layout struct {
	sizes    []int64 // of the source's disks; one of 16 MiB
	target   string  // type of the target SR; "nfs"
	garbage  bool    // new volumes of it are full of noise
	capacity int64   // of it
	onePool  bool    // source and target are one pool, whose hosts see both SRs
	bare     bool    // no delegate's image is deployed, and there are no addresses for any
	// srs has one pool with these: the VM lies on "source", and there are delegates' images on all of them.
	srs       []xapisim.SRConfig
	impatient bool          // delegates dial one another for two seconds only
	guests    xapisim.World // starts VMs that are no delegates; nil: the built-in guest, which boots from anything
}

func newWorld(t *testing.T, l layout) *world {
	t.Helper()
	t.Parallel()
	if l.sizes == nil {
		l.sizes = []int64{16 * mib}
	}
	if l.target == "" {
		l.target = "nfs"
	}
	w := &world{T: t, bare: l.bare, dir: t.TempDir(), guests: l.guests}
	target := xapisim.SRConfig{Name: "target", Type: l.target, Shared: true, Garbage: l.garbage, Capacity: l.capacity}
	source := xapisim.SRConfig{Name: "source", Type: "nfs", Shared: true}
	images := xapisim.SRConfig{Name: "images", Type: "nfs", Shared: true}
	program := abd
	if l.impatient {
		program = impatientABD
	}
	w.world = func() xapisim.World { return worlds.NewProcess(program, t.TempDir()) }
	if l.srs != nil {
		w.simA = w.newSim("a", l.srs...)
		w.simB = w.simA
	} else if l.onePool {
		w.simA = w.newSim("a", source, target, images)
		w.simB = w.simA
	} else {
		w.simA, w.simB = w.newSim("a", source, images), w.newSim("b", target, images)
	}
	disks := make([]xapisim.DiskConfig, len(l.sizes))
	for i, size := range l.sizes {
		disks[i] = xapisim.DiskConfig{Size: size, SR: "source"}
	}
	var err error
	if w.vm, err = w.simA.AddVM(xapisim.VMConfig{Name: "web", Firmware: "uefi", VCPUs: 2, Disks: disks, OtherConfig: map[string]string{"auto_poweron": "true"}}); err != nil {
		t.Fatal(err)
	}
	for i, vdi := range w.vm.VDIs {
		w.fill(vdi, l.sizes[i]/2, uint64(i+1))
	}
	w.open()
	w.connect()
	w.request = replication.Request{
		Source: w.a, Target: w.b, VM: "web", SR: target.Name, Direction: report.Push, OverwriteTarget: true,
		CBT: replication.CBTOff, // tests of it turn it on: each run makes more calls with it
	}
	return w
}

func (w *world) newSim(name string, srs ...xapisim.SRConfig) *xapisim.Pool {
	w.Helper()
	sim, err := xapisim.New(xapisim.Config{
		Name: name, Dir: w.TempDir(), Hosts: 2, SRs: srs, World: w.world(), Guests: w.guests,
		Networks: []string{"Pool-wide network 0", "isolated"}, EventDelay: -1, AuthDelay: time.Millisecond,
	})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(sim.Close)
	if w.bare {
		return sim
	}
	images := []string{"images"}
	if !slices.ContainsFunc(srs, func(sr xapisim.SRConfig) bool { return sr.Name == "images" }) {
		images = nil
		for _, sr := range srs {
			images = append(images, sr.Name)
		}
	}
	for _, sr := range images {
		if _, err := sim.AddDelegateTemplate(sr, "1.0"); err != nil {
			w.Fatal(err)
		}
	}
	return sim
}

// open opens the state directory.
func (w *world) open() {
	w.Helper()
	store, err := statetest.Open(context.Background(), w.dir)
	if err != nil {
		w.Fatal(err)
	}
	w.store = store
	w.Cleanup(func() { _ = store.Close() }) // a test may have closed it
	w.engine = &replication.Engine{Store: store, Log: slog.New(slog.NewTextHandler(w.Output(), nil)), SpawnTimeout: 20 * time.Second}
}

// connect connects to the pools, and adds them to the state the first time.
func (w *world) connect() {
	w.Helper()
	w.a = w.dial("a", w.simA)
	w.b = w.a
	if w.simB != w.simA {
		w.b = w.dial("b", w.simB)
	}
	w.request.Source, w.request.Target = w.a, w.b
}

func (w *world) dial(name string, sim *xapisim.Pool) *delegate.Pool {
	w.Helper()
	client, err := xapi.Dial(w.Context(), poolConfig(sim.Addresses(), sim.Fingerprints()))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := client.Close(context.WithoutCancel(w.Context())); err != nil {
			w.Error(err)
		}
	})
	var refs []xapi.Ref
	var uuid string
	w.must(client.Call(w.Context(), "pool.get_all", &refs))
	w.must(client.Call(w.Context(), "pool.get_uuid", &uuid, refs[0]))
	addresses := ""
	if !w.bare {
		addresses = addressRange()
	}
	err = w.store.AddPool(w.Context(), state.Pool{
		UUID: uuid, Name: name, Addresses: sim.Addresses(), Fingerprints: sim.Fingerprints(), Username: "root", Password: "xenroot",
		DelegateAddresses: addresses,
	})
	if err != nil && !errors.Is(err, state.ErrExists) {
		w.Fatal(err)
	}
	return &delegate.Pool{Name: name, API: client, Store: w.store}
}

// addressRange is a range that no other world is likely to have.
func addressRange() string {
	network := fmt.Sprintf("127.%d.%d.", 100+rand.N(100), rand.N(250))
	return network + "10-" + network + "19/8"
}

func poolConfig(addresses, fingerprints []string) xapi.Config {
	return xapi.Config{Addresses: addresses, Username: "root", Password: "xenroot", Fingerprints: fingerprints, Originator: "test"}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// fill writes noise to the first bytes of a disk of the source.
func (w *world) fill(vdi string, length int64, seed uint64) {
	w.Helper()
	w.mapped(w.simA.VDIPath(vdi), func(content []byte) {
		_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(content[:length])
	})
}

// mapped gives a file's content to look at or to change. It is no copy: what is read and written here the race detector does not
// follow, for which it takes longer with a disk than everything else does.
func (w *world) mapped(path string, do func(content []byte)) {
	w.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	w.must(err)
	defer f.Close()
	info, err := f.Stat()
	w.must(err)
	content, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	w.must(err)
	defer func() { w.must(unix.Munmap(content)) }()
	do(content)
}

func (w *world) write(path string, offset int64, content []byte) {
	w.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	w.must(err)
	defer f.Close()
	_, err = f.WriteAt(content, offset)
	w.must(err)
}

// grow makes a disk of the source larger.
func (w *world) grow(disk int, size int64) {
	w.Helper()
	ref, err := xapi.GetByUUID(w.Context(), w.a.API, "VDI", w.vm.VDIs[disk])
	w.must(err)
	grown := xapi.Record(w.a.API, "VDI", ref, func(v xapi.VDI) bool { return v.VirtualSize >= size })
	w.must(xapi.Ensure(w.Context(), w.a.API, "VDI.resize", grown, ref, size))
}

// replicate runs the request, which must succeed.
func (w *world) replicate() report.Run {
	w.Helper()
	run, err := w.engine.Replicate(w.Context(), w.request)
	if err != nil {
		w.Fatalf("replicate: %v\nevents: %v", err, run.Events)
	}
	if run.State != report.StateCommitted {
		w.Fatalf("the run is %s", run.State)
	}
	return run
}

// record is the replica in the state database.
func (w *world) record() state.Replica {
	w.Helper()
	records, err := w.store.Replicas(w.Context())
	w.must(err)
	if len(records) != 1 {
		w.Fatalf("%d replicas, want one", len(records))
	}
	return records[0]
}

// replicaPath is the file behind a disk of the replica.
func (w *world) replicaPath(disk int) string {
	w.Helper()
	return w.simB.VDIPath(w.record().Disks[disk].TargetVDI)
}

// equal compares the replica with the source, byte for byte over the logical size.
func (w *world) equal() {
	w.Helper()
	record := w.record()
	if len(record.Disks) != len(w.vm.VDIs) {
		w.Fatalf("%d disks, want %d", len(record.Disks), len(w.vm.VDIs))
	}
	for i, d := range record.Disks {
		w.mapped(w.simA.VDIPath(w.vm.VDIs[i]), func(want []byte) {
			w.mapped(w.replicaPath(i), func(got []byte) {
				if int64(len(want)) != d.LogicalSize {
					w.Errorf("disk %d: source %d bytes, logical size %d", i, len(want), d.LogicalSize)
				}
				if !bytes.Equal(want, got[:len(want)]) {
					w.Errorf("disk %d differs", i)
				}
			})
		})
	}
}

// tidy checks that nothing temporary is left in either pool: no delegate, clone or snapshot of ours, and that the number of
// restore points is points. What changes are tracked since stays, as long as a replica names it.
func (w *world) tidy(points int) {
	w.Helper()
	found := 0
	bases, err := w.store.BasesInUse(w.Context())
	w.must(err)
	for _, p := range []*delegate.Pool{w.a, w.b} {
		vms, err := xapi.AllRecords[xapi.VM](w.Context(), p.API, "VM")
		w.must(err)
		for _, vm := range vms {
			switch marker, _, _ := replica.Read(w.store.Installation().UUID, vm.UUID, vm.OtherConfig); marker.Kind {
			case "", replica.KindReplica, replica.KindDelegateTemplate:
				if vm.IsASnapshot {
					w.Errorf("pool %s: snapshot %s is left", p.Name, vm.NameLabel)
				}
			case replica.KindRestorePoint:
				found++
			case replica.KindDiverged: // stays until somebody removes it by hand
			default:
				w.Errorf("pool %s: VM %s (%s) is left", p.Name, vm.NameLabel, marker.Kind)
			}
		}
		vdis, err := xapi.AllRecords[xapi.VDI](w.Context(), p.API, "VDI")
		w.must(err)
		for _, vdi := range vdis {
			switch marker, _, _ := replica.Read(w.store.Installation().UUID, vdi.UUID, vdi.OtherConfig); marker.Kind {
			case "", replica.KindReplicaDisk, replica.KindRestorePointDisk, replica.KindDivergedDisk:
			case replica.KindCBTBase:
				if !bases[vdi.UUID] || vdi.Type != xapi.VDITypeCBTMetadata {
					w.Errorf("pool %s: VDI %s (%s, %s) is left", p.Name, vdi.NameLabel, marker.Kind, vdi.Type)
				}
				continue
			default:
				w.Errorf("pool %s: VDI %s (%s) is left", p.Name, vdi.NameLabel, marker.Kind)
			}
			if vdi.Managed && len(vdi.VBDs) == 0 { // base copies are the storage driver's
				w.Errorf("pool %s: VDI %s belongs to nobody", p.Name, vdi.NameLabel)
			}
		}
		if p == w.b && w.a == w.b {
			break
		}
	}
	if found != points {
		w.Errorf("%d restore points, want %d", found, points)
	}
	pending, err := w.store.PendingRuns(w.Context())
	w.must(err)
	if len(pending) != 0 {
		w.Errorf("%d runs are pending", len(pending))
	}
}

// replicaVM reads the replica VM.
func (w *world) replicaVM() (xapi.Ref, xapi.VM) {
	w.Helper()
	ref, err := xapi.GetByUUID(w.Context(), w.b.API, "VM", w.record().TargetVM)
	w.must(err)
	vm, err := xapi.GetRecord[xapi.VM](w.Context(), w.b.API, "VM", ref)
	w.must(err)
	return ref, vm
}

// hash is a digest of the source's disks.
func (w *world) hash() (sum [32]byte) {
	w.Helper()
	h := sha256.New()
	for _, vdi := range w.vm.VDIs {
		w.mapped(w.simA.VDIPath(vdi), func(content []byte) { h.Write(content) })
	}
	return [32]byte(h.Sum(nil))
}
