//go:build e2e

package e2e_test

import (
	"bytes"
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/worlds"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// configured is the world of VMs whose disk is that of the delegate's image, for want of another system: a machine finds its
// configuration in its surroundings, and everything else on its disk.
type configured struct {
	xapisim.World
	data map[string]string
}

func (w configured) Start(ctx context.Context, m xapisim.Machine) (xapisim.Guest, error) {
	m.Data = maps.Clone(m.Data)
	if m.Data == nil {
		m.Data = map[string]string{}
	}
	maps.Copy(m.Data, w.data)
	return w.World.Start(ctx, m)
}

// TestARestorePointBoots: a run is killed in the middle of overwriting a replica. The newest restore point boots in QEMU, from its firmware
// to an agent that reports, although the replica's own disk is torn. With its boot sector destroyed it does not, by the same test. The delegates are
// processes here: that they boot, other tests show.
func TestARestorePointBoots(t *testing.T) {
	t.Parallel()
	s := openSites(t)
	_, _, data := configuration(t, "10.77.0.60/24")
	for name, site := range map[string]**site{"a": &s.a, "b": &s.b} {
		addresses := map[string]string{"a": "127.98.0.10-127.98.0.19/8", "b": "127.98.0.20-127.98.0.29/8"}[name]
		processes := worlds.NewProcess(s.program(), filepath.Join(s.dir, "processes-"+name))
		*site = s.add(name, addresses, 0, processes, configured{s.emulated(name), data})
		_, err := (*site).AddDelegateTemplate("storage-"+name, "1.0")
		s.must(err)
	}
	const size = 96 * mib
	system, err := os.ReadFile(filepath.Join(image, "boot.raw"))
	s.must(err)
	content := make([]byte, size) // behind the system nothing yet
	copy(content, system)
	disk := filepath.Join(s.dir, "web.raw")
	s.must(os.WriteFile(disk, content, 0o644))
	vm, err := s.a.AddVM(xapisim.VMConfig{Name: "web", Disks: []xapisim.DiskConfig{{From: disk, Adopt: true}}})
	s.must(err)
	source := s.a.VDIPath(vm.VDIs[0])
	s.replicate(report.Push, false)

	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	s.must(os.WriteFile(source, content, 0o644))
	s.tear()
	record, err := s.store.Replicas(t.Context())
	s.must(err)
	torn, err := os.ReadFile(s.b.VDIPath(record[0].Disks[0].TargetVDI))
	s.must(err)
	if bytes.Equal(torn[:len(system)], system) || bytes.Equal(torn[:size], content) {
		t.Error("the replica's disk is whole: the run was not killed in the middle")
	}

	began := time.Now()
	first := s.rehearse(10 * time.Minute) // on a busy computer
	took := time.Since(began)
	if first.Found.Outcome != replica.Booted || !strings.Contains(first.Found.Cause, "reported version 8.0") {
		t.Fatalf("the restore point before the killed run: %+v", first.Found)
	}
	t.Logf("after %v: %s: %s", took.Round(time.Second), first.Found.Outcome, first.Found.Cause)

	s.destroyBootSector(first.Point)
	second := s.rehearse(max(30*time.Second, took))
	if second.Point != first.Point || second.Found.Outcome != replica.Failed {
		t.Errorf("the restore point without its boot sector: %+v", second.Found)
	}
	t.Logf("%s: %s", second.Found.Outcome, second.Found.Cause)

	points, err := replication.Points(t.Context(), s.store, record[0].ID, s.b.delegates)
	s.must(err)
	if len(points) != 1 || points[0].Verdict == nil || points[0].Verdict.Outcome != replica.Failed {
		t.Errorf("listed as %+v", points)
	}
	vms, err := xapi.AllRecords[xapi.VM](t.Context(), s.b.delegates.API, "VM")
	s.must(err)
	for _, vm := range vms {
		if vm.PowerState != xapi.Halted && !vm.IsControlDomain {
			t.Errorf("VM %s is left, %s", vm.NameLabel, vm.PowerState)
		}
	}
}

// program builds the delegate's program.
func (s *sites) program() string {
	s.Helper()
	path := filepath.Join(s.dir, "abd")
	build := exec.Command("go", "build", "-o", path, "github.com/understudy-dr/understudy/cmd/abd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		s.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// rehearse tests the newest restore point.
func (s *sites) rehearse(timeout time.Duration) replication.Test {
	s.Helper()
	records, err := s.store.Replicas(s.Context())
	s.must(err)
	test, err := s.engine.Test(s.Context(), replication.TestRequest{
		Replica: records[0].ID, Target: s.b.delegates, Auto: true, Network: "Pool-wide network 0", Timeout: timeout, Steady: 3 * time.Second,
	})
	if err != nil || test.Found == nil {
		s.Fatalf("test: %v\nevents: %v", err, test.Run.Events)
	}
	return test
}

// destroyBootSector is what failing storage does to a restore point.
func (s *sites) destroyBootSector(point string) {
	s.Helper()
	api := s.b.delegates.API
	ref, err := xapi.GetByUUID(s.Context(), api, "VM", point)
	s.must(err)
	vbds, err := xapi.AllRecords[xapi.VBD](s.Context(), api, "VBD")
	s.must(err)
	for _, vbd := range vbds {
		if vbd.VM != ref || vbd.Type != xapi.TypeDisk {
			continue
		}
		vdi, err := xapi.GetRecord[xapi.VDI](s.Context(), api, "VDI", vbd.VDI)
		s.must(err)
		f, err := os.OpenFile(s.b.VDIPath(vdi.UUID), os.O_WRONLY, 0)
		s.must(err)
		_, err = f.WriteAt(make([]byte, 512), 0)
		s.must(err)
		s.must(f.Close())
	}
}

// tear replicates, and kills the target's delegate when it has written a part. The run ends with that.
func (s *sites) tear() {
	s.Helper()
	engine := *s.engine
	engine.ResumeWindow = -1
	slow, err := ratelimit.Parse("16MB/s")
	s.must(err)
	ctx, stop := context.WithCancel(s.Context())
	killed := make(chan error, 1)
	go func() { killed <- s.killWhenWritten(ctx) }()
	run, err := engine.Replicate(ctx, replication.Request{
		Source: s.a.delegates, Target: s.b.delegates, VM: "web", SR: "storage-b", Direction: report.Push, OverwriteTarget: true,
		Limit: slow,
	})
	stop()
	if failure := <-killed; failure != nil || err == nil || run.State != report.StateFailed {
		s.Fatalf("the run whose delegate was killed (%v) is %s, %v", failure, run.State, err)
	}
}

func (s *sites) killWhenWritten(ctx context.Context) error {
	for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		records, err := s.store.Replicas(ctx)
		if err != nil {
			return err
		}
		journal, err := s.store.ReadJournal(ctx, records[0].ID, "0")
		if err != nil {
			continue // nothing is written yet
		}
		n := len(journal.Segments)
		written := n > 0 && journal.Segments[n-1].Watermark >= 2
		journal.Close()
		if !written {
			continue
		}
		all, err := delegate.List(ctx, s.b.delegates)
		if err != nil {
			return err
		}
		for _, d := range all {
			ref, err := xapi.GetByUUID(ctx, s.b.delegates.API, "VM", d.UUID)
			if err != nil {
				return err
			}
			if err := s.b.delegates.API.Run(ctx, "VM.hard_shutdown", nil, ref); err != nil {
				return err
			}
		}
		return nil
	}
	return context.Cause(ctx)
}
