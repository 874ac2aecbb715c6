//go:build xen || xenhvm

package xen_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// workbench is a delegate in the hands of a test.
type workbench struct {
	t    *testing.T
	site *site
	*delegate.Delegate
	key manifest.Key
}

// spawn starts a delegate. It is retired with the test at the latest.
func spawn(t *testing.T, s *site) *workbench {
	t.Helper()
	w, err := trySpawn(t, s)
	must(t, err)
	t.Cleanup(func() { must(t, w.Retire(t.Context())) })
	return w
}

// trySpawn starts a delegate; when that fails nothing of it is left.
func trySpawn(t *testing.T, s *site) (*workbench, error) {
	t.Helper()
	pool := s.delegate
	var err error
	pool.Inventory, err = inventory.Load(t.Context(), pool.API)
	must(t, err)
	templates := pool.Inventory.DelegateTemplates()
	if len(templates) != 1 {
		t.Fatalf("pool %s has %d templates", pool.Name, len(templates))
	}
	run, err := pool.Store.BeginRun(t.Context(), "", state.RunTest, report.Run{VM: report.VM{Pool: pool.Name, PoolUUID: pool.Inventory.UUID}})
	must(t, err)
	identity, err := netproto.NewIdentity()
	must(t, err)
	key, err := manifest.NewKey()
	must(t, err)
	spawner := &delegate.Spawner{
		Installation: pool.Store.Installation().UUID, Run: run.Report.ID, Identity: identity, Key: key, Dial: shared.lan.DialContext,
		Saga: saga.New(pool.Store, run.Report.ID, delegate.Undoers(pool)), Log: logger(t), Timeout: spawnTimeout,
	}
	began := time.Now()
	d, err := spawner.Spawn(t.Context(), delegate.Spec{
		Pool: pool, Host: pool.Inventory.Coordinator, Template: templates[0].Ref, Side: "source",
	})
	if err != nil {
		return nil, err
	}
	t.Logf("delegate %s is ready after %v", d.Name(), time.Since(began).Round(100*time.Millisecond))
	return &workbench{t: t, site: s, Delegate: d, key: key}, nil
}

// cycle is the short life of one delegate: boot, identity, a disk taken, read and given back, power-off.
func cycle(t *testing.T, s *site) error {
	t.Helper()
	const size = 16 * mib
	vdi, content := s.disk(t, "small", size, 4*mib)
	w, err := trySpawn(t, s)
	if err != nil {
		return err
	}
	err = func() error {
		device, err := w.Plug(t.Context(), vdi, size)
		if err != nil {
			return err
		}
		status, err := w.tryScan("cycle", device, size)
		if err != nil {
			return err
		}
		if want := root(t, w.key, content); status.Root != want {
			return fmt.Errorf("the disk's root is %s, want %s", status.Root, want)
		}
		return w.Unplug(t.Context(), device)
	}()
	return errors.Join(err, w.Retire(t.Context()))
}

// disk makes a disk in the pool, noise in its first bytes, zeroes after them.
func (s *site) disk(t *testing.T, name string, size, noise int64) (vdi xapi.Ref, content []byte) {
	t.Helper()
	content = make([]byte, size)
	fill(content[:noise], uint64(size+noise))
	file, err := os.CreateTemp(shared.dir, "disk-")
	must(t, err)
	_, err = file.Write(content)
	must(t, err)
	must(t, file.Close())
	added, err := s.AddVM(xapisim.VMConfig{Name: name, Disks: []xapisim.DiskConfig{{From: file.Name(), Adopt: true}}})
	must(t, err)
	vdi, err = xapi.GetByUUID(t.Context(), s.delegate.API, "VDI", added.VDIs[0])
	must(t, err)
	return vdi, content
}

// fill writes noise that neither compresses nor repeats.
func fill(p []byte, seed uint64) {
	var s [32]byte
	s[0], s[1], s[2], s[3] = byte(seed), byte(seed>>8), byte(seed>>16), byte(seed>>24)
	_, _ = rand.NewChaCha8(s).Read(p) // never fails
}

// tryScan scans a disk to its end.
func (w *workbench) tryScan(id string, device int, size int64) (control.TaskStatus, error) {
	ctx := w.t.Context()
	began := time.Now()
	_, err := w.Control().StartTask(ctx, control.TaskSpec{ID: id, Kind: control.KindScan, Device: device, Size: size, KeyID: w.key.ID()})
	if err != nil {
		return control.TaskStatus{}, err
	}
	status, err := w.Control().WaitTask(ctx, id)
	if err == nil && status.State != control.StateDone {
		err = fmt.Errorf("task %s is %s: %s", id, status.State, status.Error)
	}
	w.t.Logf("%d MiB scanned in %v", size/mib, time.Since(began).Round(10*time.Millisecond))
	return status, err
}

// root is that of a whole disk.
func root(t *testing.T, key manifest.Key, content []byte) manifest.Digest {
	t.Helper()
	geometry := manifest.Geometry{Size: int64(len(content))}
	hasher, sum := key.NewHasher(), key.NewRoot(geometry)
	for e := range geometry.Extents() {
		var blocks []manifest.Digest
		for b := range geometry.BlocksIn(e) {
			offset, length := geometry.BlockRange(e*manifest.BlocksPerExtent + uint32(b))
			blocks = append(blocks, hasher.Block(content[offset:offset+int64(length)]))
		}
		sum.Add(hasher.Extent(blocks))
	}
	digest, err := sum.Sum()
	must(t, err)
	return digest
}
