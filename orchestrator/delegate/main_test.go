package delegate_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/guestdir"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/state/statetest"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/worlds"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const mib = 1 << 20

// networks numbers the networks of fixtures, from anywhere, since tests of other packages may run at the same time.
var networks atomic.Uint32

func init() { networks.Store(rand.Uint32N(100 * 250)) }

// TestMain makes the test binary a delegate when the process world starts it as one, or a deployment that is to be killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		fmt.Fprintln(os.Stderr, "the child was to be killed before:", child(context.Background(), dir))
		os.Exit(1)
	}
	if len(os.Args) == 3 && os.Args[1] == "--guest" {
		if err := beDelegate(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Most of a test is waiting, for delegates to boot and for tasks.
	if err := flag.Set("test.parallel", "4"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func beDelegate(dir string) error {
	guest, err := guestdir.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = guest.Close() }()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return appliance.Run(ctx, appliance.Options{Guest: guest, Version: "test", Buffered: true, Console: slog.NewTextHandler(os.Stderr, nil)})
}

// fixture is a pool with a delegate template, and a run that may spawn delegates in it.
type fixture struct {
	t        *testing.T
	sim      *xapisim.Pool
	pool     *delegate.Pool
	dir      string // of the store
	store    *state.Store
	template xapisim.Added
	spawner  *delegate.Spawner
	count    map[string]int // objects by class before anything was spawned
}

// processWorld starts delegates as processes of this test binary.
func processWorld(t *testing.T) xapisim.World { return worlds.NewProcess(os.Args[0], t.TempDir()) }

// newFixture builds a pool of two hosts whose delegates have n addresses.
func newFixture(t *testing.T, world xapisim.World, n int) *fixture {
	t.Helper()
	sim, err := xapisim.New(xapisim.Config{
		Name: "pool", Dir: t.TempDir(), Hosts: 2, World: world, EventDelay: -1, AuthDelay: time.Millisecond,
		SRs: []xapisim.SRConfig{{Name: "shared", Shared: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	f := &fixture{t: t, sim: sim}
	if f.template, err = sim.AddDelegateTemplate("shared", "test"); err != nil {
		t.Fatal(err)
	}
	client, err := xapi.Dial(t.Context(), xapi.Config{
		Addresses: sim.Addresses(), Username: "root", Password: "xenroot", Fingerprints: sim.Fingerprints(), Originator: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	f.dir = t.TempDir()
	f.store = openStore(t, f.dir)
	f.pool = &delegate.Pool{Name: "a", API: client, Store: f.store}
	f.load()
	n24 := networks.Add(1) % (100 * 250)
	network := fmt.Sprintf("127.%d.%d.", 100+n24/250, n24%250)
	run := f.beginRun(fmt.Sprintf("%s10-%s%d/8", network, network, 9+n))
	f.count = f.objects()

	identity, err := netproto.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	key, err := manifest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	f.spawner = &delegate.Spawner{
		Installation: f.store.Installation().UUID, Run: run, Identity: identity, Key: key,
		Saga:    saga.New(f.store, run, delegate.Undoers(f.pool)),
		Log:     slog.New(slog.NewTextHandler(t.Output(), nil)),
		Timeout: 20 * time.Second, RetryPause: 50 * time.Millisecond,
	}
	return f
}

func openStore(t *testing.T, dir string) *state.Store {
	t.Helper()
	store, err := statetest.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// load reads the pool's inventory.
func (f *fixture) load() {
	f.t.Helper()
	pool, err := inventory.Load(f.t.Context(), f.pool.API)
	if err != nil {
		f.t.Fatal(err)
	}
	f.pool.Inventory = pool
}

// beginRun adds the pool with this range of addresses, and begins a run in it.
func (f *fixture) beginRun(addresses string) string {
	f.t.Helper()
	uuid := f.pool.Inventory.UUID
	err := f.store.AddPool(f.t.Context(), state.Pool{
		UUID: uuid, Name: "a", Addresses: []string{"a.test"}, Fingerprints: []string{"00"}, DelegateAddresses: addresses,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	replica, err := f.store.CreateReplica(f.t.Context(), state.Replica{SourcePool: uuid, SourceVM: "vm", TargetPool: uuid, TargetSR: "sr"})
	if err != nil {
		f.t.Fatal(err)
	}
	run, err := f.store.BeginRun(f.t.Context(), replica.ID, state.RunReplicate, report.Run{Direction: report.Push, Trust: report.TrustVerify})
	if err != nil {
		f.t.Fatal(err)
	}
	return run.Report.ID
}

// spec asks for a delegate on the coordinator.
func (f *fixture) spec() delegate.Spec {
	return delegate.Spec{Pool: f.pool, Host: f.pool.Inventory.Coordinator, Template: xapi.Ref(f.template.Ref), Side: "source"}
}

// spawn makes a delegate that is retired with the test at the latest.
func (f *fixture) spawn() *delegate.Delegate {
	f.t.Helper()
	d, err := f.spawner.Spawn(f.t.Context(), f.spec())
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := d.Retire(f.t.Context()); err != nil {
			f.t.Error(err)
		}
	})
	return d
}

// addVM makes a VM with one disk and returns the disk.
func (f *fixture) addVM(name string, size int64) (vm, vdi xapi.Ref) {
	f.t.Helper()
	added, err := f.sim.AddVM(xapisim.VMConfig{Name: name, Disks: []xapisim.DiskConfig{{Size: size}}})
	if err != nil {
		f.t.Fatal(err)
	}
	ref, err := xapi.GetByUUID(f.t.Context(), f.pool.API, "VDI", added.VDIs[0])
	if err != nil {
		f.t.Fatal(err)
	}
	f.count = f.objects()
	return xapi.Ref(added.Ref), ref
}

// call makes a call that must succeed.
func (f *fixture) call(method string, result any, args ...any) {
	f.t.Helper()
	if err := f.pool.API.Call(f.t.Context(), method, result, args...); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) vm(ref xapi.Ref) xapi.VM {
	f.t.Helper()
	var vm xapi.VM
	f.call("VM.get_record", &vm, ref)
	return vm
}

// objects counts what a delegate consists of.
func (f *fixture) objects() map[string]int {
	f.t.Helper()
	count := map[string]int{}
	for _, class := range []string{"VM", "VDI", "VBD", "VIF", "VM_metrics"} {
		var records map[xapi.Ref]struct {
			Managed *bool `json:"managed"` // which VDIs alone have
		}
		f.call(class+".get_all_records", &records)
		for _, record := range records {
			if record.Managed == nil || *record.Managed { // base copies are the storage driver's
				count[class]++
			}
		}
	}
	return count
}

// nothingLeft checks that the pool is as it was.
func (f *fixture) nothingLeft() {
	f.t.Helper()
	if now := f.objects(); fmt.Sprint(now) != fmt.Sprint(f.count) {
		f.t.Errorf("the pool has %v, it had %v", now, f.count)
	}
}

// unwind ends the run's saga and frees its addresses.
func (f *fixture) unwind() {
	f.t.Helper()
	if err := f.spawner.Saga.Unwind(f.t.Context()); err != nil {
		f.t.Error(err)
	}
}

// setKey sets a key of an object's other_config.
func (f *fixture) setKey(class string, ref xapi.Ref, key, value string) {
	f.t.Helper()
	if err := xapi.SetOtherConfigKey(f.t.Context(), f.pool.API, class, ref, key, value); err != nil {
		f.t.Fatal(err)
	}
}

// bootDisk is the disk of a VM's first VBD.
func (f *fixture) bootDisk(vm xapi.Ref) (vdi xapi.Ref) {
	f.t.Helper()
	f.call("VBD.get_VDI", &vdi, f.vm(vm).VBDs[0])
	return vdi
}

// attach joins a disk to a VM.
func (f *fixture) attach(vm, vdi xapi.Ref) {
	f.t.Helper()
	f.call("VBD.create", nil, map[string]any{
		"VM": vm, "VDI": vdi, "userdevice": "7", "bootable": false, "mode": "RW", "type": "Disk", "empty": false,
		"other_config": map[string]string{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
	})
}

// faulty makes a method fail until it is removed.
func (f *fixture) faulty(method string) (remove func()) {
	return f.sim.Fault(xapisim.Rule{Method: method, Error: &xapisim.Error{Code: "INTERNAL_ERROR", Params: []string{"injected"}}})
}
