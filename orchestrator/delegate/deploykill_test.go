package delegate_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/state/statetest"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// childVariable makes the test binary a deployment with the store in this folder. The others tell it where, and of what.
const (
	childVariable   = "DELEGATE_TEST_CHILD"
	addressVariable = "DELEGATE_TEST_ADDRESS"
	printVariable   = "DELEGATE_TEST_FINGERPRINT"
	imageVariable   = "DELEGATE_TEST_IMAGE"
	// uploadVariable has the child kill itself in the middle of the upload.
	uploadVariable = "DELEGATE_TEST_UPLOAD"
)

func child(ctx context.Context, dir string) error {
	store, err := statetest.Open(ctx, dir)
	if err != nil {
		return err
	}
	client, err := xapi.Dial(ctx, xapi.Config{
		Addresses: []string{os.Getenv(addressVariable)}, Username: "root", Password: "xenroot",
		Fingerprints: strings.Split(os.Getenv(printVariable), ","), Originator: "child",
	})
	if err != nil {
		return err
	}
	spec := delegate.DeploySpec{
		Pool: &delegate.Pool{Name: "a", API: client, Store: store}, SR: "shared", Image: os.Getenv(imageVariable), Upgrade: true,
	}
	spec.Observe = func(p delegate.DeployProgress) {
		if os.Getenv(uploadVariable) != "" && p.Sent > mib {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // the parent sees whether it died
		}
	}
	_, err = delegate.Deploy(ctx, spec)
	return err
}

// TestDeployKilledAnywhere kills a process that upgrades while it makes a call, which the pool carries out nevertheless. The next
// deployment finds what it has left.
func TestDeployKilledAnywhere(t *testing.T) {
	t.Parallel()
	f := deployFixture(t)
	f.deploy(f.deploySpec(writeImage(t, "1.0", nil)))
	f.count = f.objects()
	for i, moment := range []struct {
		method string
		after  int // calls of the method that the deployment makes before
	}{
		{"", 0}, // in the upload
		{"VM.add_tags", 0},
		{"VM.add_to_other_config", 2},
		{"VIF.create", 0},
		{"VDI.destroy", 0}, // of the older template
		{"VM.destroy", 0},
	} {
		version := fmt.Sprintf("1.%d", i+1)
		image := writeImage(t, version, nil)
		f.killDeploy(image, moment.method, moment.after)
		spec := f.deploySpec(image)
		spec.Upgrade = true
		deployed := f.deploy(spec)
		if existing := strings.HasSuffix(moment.method, ".destroy"); deployed.Existing != existing {
			t.Errorf("killed in %q: the template was there already: %v", moment.method, deployed.Existing)
		}
		if templates := f.pool.Inventory.DelegateTemplates(); len(templates) != 1 || templates[0].Version != version {
			t.Errorf("killed in %q: templates %+v", moment.method, templates)
		}
		f.nothingLeft()
		f.noRuns()
		if t.Failed() {
			t.Fatalf("killed in %q", moment.method)
		}
	}
}

// killDeploy runs a child that deploys an image, and kills it in its call of a method, or has it die in the upload.
func (f *fixture) killDeploy(image, method string, after int) {
	f.t.Helper()
	command := exec.CommandContext(f.t.Context(), os.Args[0])
	command.Env = append(os.Environ(), childVariable+"="+f.dir, addressVariable+"="+f.sim.Addresses()[0],
		printVariable+"="+strings.Join(f.sim.Fingerprints(), ","), imageVariable+"="+image)
	if method == "" {
		command.Env = append(command.Env, uploadVariable+"=1")
	}
	var told strings.Builder
	command.Stderr = &told
	calls := func() int { return f.sim.Calls(method) + f.sim.Calls("Async."+method) }
	before := calls()
	if method != "" {
		defer f.sim.Fault(xapisim.Rule{Method: method, After: after, Count: 1, Delay: 300 * time.Millisecond})()
	}
	if err := command.Start(); err != nil {
		f.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = command.Wait() // it is to be killed
		close(ended)
	}()
	for method != "" && calls() <= before+after {
		select {
		case <-ended:
			f.t.Fatalf("the child ended before %s: %s", method, told.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
	if method != "" {
		_ = command.Process.Kill() // whether it died so shows below
	}
	<-ended
	if status, ok := command.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() {
		f.t.Fatalf("the child was not killed in %q: %s", method, told.String())
	}
}

// TestTwoDeploymentsAtOnce has two of one version: one is refused, or finds the other's template.
func TestTwoDeploymentsAtOnce(t *testing.T) {
	t.Parallel()
	f := deployFixture(t)
	spec := f.deploySpec(writeImage(t, "1.0", nil))
	// Both have seen the pool without a template before the first begins to upload.
	defer f.sim.Fault(xapisim.Rule{Method: "task.create", Delay: 300 * time.Millisecond})()
	errs := make([]error, 2)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() { _, errs[i] = delegate.Deploy(t.Context(), spec) })
	}
	group.Wait()
	refused := 0
	for _, err := range errs {
		if errors.Is(err, state.ErrBusy) {
			refused++
		} else if err != nil {
			t.Error(err)
		}
	}
	if templates := inventoryOf(t, f).DelegateTemplates(); len(templates) != 1 || f.sim.Calls(putImport) != requestsAnImport {
		t.Errorf("%d templates, %d refused", len(templates), refused)
	}
	f.noRuns()
	if again := f.deploy(spec); !again.Existing {
		t.Errorf("deployed again: %+v", again)
	}
}

// TestAnotherBuild has other content under one version: the hash of it, with which the version ends, orders nothing.
func TestAnotherBuild(t *testing.T) {
	t.Parallel()
	f := deployFixture(t)
	f.deploy(f.deploySpec(writeImage(t, "1.0.9-ffffffff", nil)))
	f.count = f.objects()
	for _, version := range []string{"1.0.9-00000000", "1.0.9-88888888", "1.0.10-00000000"} {
		spec := f.deploySpec(writeImage(t, version, nil))
		if _, err := delegate.Deploy(t.Context(), spec); !errors.Is(err, delegate.ErrVersion) || !strings.Contains(err.Error(), "upgrade") {
			t.Errorf("%s without upgrade: %v", version, err)
		}
		spec.Upgrade = true
		if deployed := f.deploy(spec); deployed.Existing || deployed.Version != version || len(deployed.Removed) != 1 {
			t.Errorf("%+v", deployed)
		}
		f.nothingLeft()
	}
}
