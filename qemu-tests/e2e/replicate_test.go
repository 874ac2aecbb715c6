//go:build e2e

package e2e_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// The main job: the image is imported into two pools, delegates boot from it, disks are plugged while they run, and a VM is
// replicated twice. Its replica is equal each time. Then a delegate is tried out as an administrator does.
func TestReplication(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	for _, p := range []*site{s.a, s.b} {
		if d := s.deploy(p); d.Existing || d.Version == "" {
			t.Errorf("deployed %+v", d)
		}
	}
	disk := filepath.Join(s.dir, "web.raw")
	s.fileSystem(disk, 512*mib)
	vm, err := s.a.AddVM(xapisim.VMConfig{Name: "web", Running: true, Disks: []xapisim.DiskConfig{{From: disk, Adopt: true}}})
	s.must(err)
	source := s.a.VDIPath(vm.VDIs[0])

	first := s.replicate(report.Push, false)
	s.equal(source)
	s.change(source)
	second := s.replicate(report.Push, true)
	s.equal(source)
	if mode := second.Disks[0].Mode; !strings.HasPrefix(string(mode), "trust") {
		t.Errorf("the second run compared %s: %s", mode, second.Disks[0].Cause)
	}
	for _, run := range []report.Run{first, second} {
		s.Logf("%s in %v\n%s", run.State, run.Finished.Sub(run.Started).Round(time.Millisecond), s.table(run))
	}
	trial, err := s.engine.TryDelegate(t.Context(), replication.TrialRequest{Pool: s.b.delegates})
	s.must(err)
	for _, step := range trial.Steps {
		s.Logf("delegate test: %s: %v", step.Step, step.Duration.Round(time.Millisecond))
	}
	// The delegates were told their MTU, and used it.
	if largest := s.lan.LargestPacket(nil); largest != delegateMTU {
		s.Errorf("the delegates' largest packet had %d bytes, not %d", largest, delegateMTU)
	}
	left, err := delegate.List(t.Context(), s.a.delegates, s.b.delegates)
	s.must(err)
	for _, d := range left {
		t.Errorf("delegate %s is left in pool %s", d.Name, d.Pool)
	}
}

func (s *sites) replicate(direction report.Direction, trust bool) report.Run {
	s.Helper()
	run, err := s.engine.Replicate(s.Context(), replication.Request{
		Source: s.a.delegates, Target: s.b.delegates, VM: "web", SR: "storage-b", Direction: direction, Trust: trust, OverwriteTarget: true,
	})
	if err != nil {
		s.Fatalf("replicate: %v\nevents: %v", err, run.Events)
	}
	if run.State != report.StateCommitted {
		s.Fatalf("the run is %s", run.State)
	}
	return run
}

func (s *sites) table(run report.Run) string {
	s.Helper()
	var out bytes.Buffer
	s.must(report.WriteTable(&out, report.Rows("web", run)))
	return out.String()
}

// fileSystem makes an image with a file system that holds real files: a part of Go's own tree.
func (s *sites) fileSystem(path string, size int64) {
	s.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	s.must(err)
	f, err := os.Create(path)
	s.must(err)
	s.must(f.Truncate(size))
	s.must(f.Close())
	s.command("mkfs.ext4", "-q", "-F", "-L", "web", "-d", filepath.Join(strings.TrimSpace(string(out)), "src/cmd"), path)
}

// change is a day of the VM's life: a file is added, another one goes, a folder is made.
func (s *sites) change(image string) {
	s.Helper()
	content := filepath.Join(s.dir, "content")
	s.must(os.WriteFile(content, bytes.Repeat([]byte("what the guest wrote between the runs\n"), 40000), 0o644))
	commands := fmt.Sprintf("mkdir /today\nwrite %s /today/notes\nrm /README.vendor\n", content)
	c := exec.Command(tool("debugfs"), "-w", "-f", "/dev/stdin", image)
	c.Stdin = strings.NewReader(commands)
	if out, err := c.CombinedOutput(); err != nil {
		s.Fatalf("debugfs: %v\n%s", err, out)
	}
	s.command("e2fsck", "-f", "-n", image)
}

func (s *sites) command(name string, arguments ...string) {
	s.Helper()
	if out, err := exec.Command(tool(name), arguments...).CombinedOutput(); err != nil {
		s.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// tool finds a program that may stand where only root's PATH leads.
func tool(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return "/usr/sbin/" + name
}

// equal compares the replica's disk with the source's, byte for byte, and checks its file system.
func (s *sites) equal(source string) {
	s.Helper()
	replicas, err := s.store.Replicas(s.Context())
	s.must(err)
	if len(replicas) != 1 || len(replicas[0].Disks) != 1 {
		s.Fatalf("replicas: %+v", replicas)
	}
	replica := s.b.VDIPath(replicas[0].Disks[0].TargetVDI)
	a, err := os.Open(source)
	s.must(err)
	defer a.Close()
	b, err := os.Open(replica)
	s.must(err)
	defer b.Close()
	x, y := make([]byte, mib), make([]byte, mib)
	for offset := int64(0); ; offset += mib {
		n, err := a.ReadAt(x, offset)
		if n == 0 && err == io.EOF {
			break
		} else if n < mib && err != io.EOF {
			s.Fatal(err)
		}
		if _, err := b.ReadAt(y[:n], offset); err != nil && err != io.EOF {
			s.Fatal(err)
		}
		if !bytes.Equal(x[:n], y[:n]) {
			s.Fatalf("the replica differs from the source within 1 MiB from offset %d", offset)
		}
	}
	s.command("e2fsck", "-f", "-n", replica)
}
