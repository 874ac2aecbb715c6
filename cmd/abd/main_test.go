package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/appliance/guesttest"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
)

const within = 20 * time.Second

// program is the built command.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "abd")
	if err == nil {
		program = filepath.Join(dir, "abd")
		build := exec.Command("go", "build", "-ldflags", "-X main.version=1.2.3", "-o", program, ".")
		build.Stderr = os.Stderr
		err = build.Run()
	}
	code := 1
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, "build:", err)
	}
	_ = os.RemoveAll(dir) // a temporary directory
	os.Exit(code)
}

func TestUsage(t *testing.T) {
	for name, test := range map[string]struct {
		arguments []string
		code      int
		want      string
	}{
		"version":          {[]string{"--version"}, 0, "1.2.3"},
		"help":             {[]string{"--help"}, 0, "-guest"},
		"nothing":          {nil, 2, "--guest DIR"},
		"unknown flag":     {[]string{"--disk"}, 2, "-disk"},
		"too much":         {[]string{"--guest", "x", "y"}, 2, "--guest DIR"},
		"no directory":     {[]string{"--guest", "/nonexistent"}, 1, "existing directory"},
		"no configuration": {[]string{"--guest", t.TempDir()}, 1, "bad configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			output, err := exec.Command(program, test.arguments...).CombinedOutput()
			code := 0
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				code = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if code != test.code || !strings.Contains(string(output), test.want) {
				t.Errorf("exit code %d, want %d; output %q, want %q", code, test.code, output, test.want)
			}
		})
	}
}

// The command of PID 1's worker is refused to others.
func TestWorkerElsewhere(t *testing.T) {
	command := exec.Command(program)
	command.Args = []string{"abd-worker"}
	output, err := command.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(output), "only PID 1 of a delegate's machine") {
		t.Errorf("%v: %q", err, output)
	}
}

// The process serves its orchestrator, scans a disk, and ends with SIGTERM or an unplugged plug.
func TestProcess(t *testing.T) {
	directory := guesttest.NewDirectory(t)
	identity, err := netproto.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	ip := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250))
	directory.WriteDomain(appliance.Domain{VM: "vm", UniqueID: "boot"})
	directory.WriteInput(map[string]string{
		control.InputNonce: "00112233445566778899", control.InputOrchestrator: string(identity.Fingerprint()), control.InputAddress: ip + "/8",
	})
	command := exec.Command(program, "--guest", directory.Path, "--buffered")
	var console bytes.Buffer
	command.Stderr = &console
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	defer func() { _ = command.Process.Kill() }() // has ended, if all went well

	client := control.NewClient(control.ClientOptions{
		Address: fmt.Sprintf("%s:%d", ip, control.Port), Identity: identity, Peer: awaitIdentity(t, directory, ended).Fingerprint,
	})
	defer client.Close()
	status := scan(t, directory, client)
	if status.State != control.StateDone || status.Counters.Read != 9<<20 {
		t.Errorf("scan is %s (%s), read %d", status.State, status.Error, status.Counters.Read)
	}
	about, err := client.Status(t.Context())
	if err != nil || about.Version != "1.2.3" || about.MemoryLimitBytes == 0 || about.PeakRSSBytes > 96<<20 {
		t.Errorf("status is %+v, %v", about, err)
	}
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the process ended with %v:\n%s", err, &console)
		}
	case <-time.After(within):
		t.Fatal("the process did not end")
	}
	if cause, _ := directory.ReadPublication(control.CauseKey); cause == "" {
		t.Error("no cause was published")
	}
}

func awaitIdentity(t *testing.T, directory *guesttest.Directory, ended <-chan error) control.Identity {
	t.Helper()
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if value, ok := directory.ReadPublication(control.IdentityKey); ok {
			identity, err := control.ParseIdentity(value)
			if err != nil {
				t.Fatal(err)
			}
			return identity
		}
		select {
		case err := <-ended:
			t.Fatalf("the process ended: %v", err)
		default:
		}
	}
	t.Fatal("no identity in time")
	return control.Identity{}
}

// scan has a disk of 9 MiB scanned.
func scan(t *testing.T, directory *guesttest.Directory, client *control.Client) control.TaskStatus {
	t.Helper()
	ctx := t.Context()
	disk := filepath.Join(t.TempDir(), "disk.raw")
	if err := errors.Join(os.WriteFile(disk, nil, 0o644), os.Truncate(disk, 9<<20)); err != nil {
		t.Fatal(err)
	}
	directory.PlugImage(4, disk, false)
	for devices := []control.Device(nil); len(devices) == 0; time.Sleep(10 * time.Millisecond) {
		var err error
		if devices, err = client.Devices(ctx); err != nil {
			t.Fatal(err)
		}
	}
	key, err := manifest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.SetKey(ctx, key); err != nil {
		t.Fatal(err)
	}
	if _, err := client.StartTask(ctx, control.TaskSpec{ID: "scan", Kind: control.KindScan, Device: 4, Size: 9 << 20, KeyID: key.ID()}); err != nil {
		t.Fatal(err)
	}
	status, err := client.WaitTask(ctx, "scan")
	if err != nil {
		t.Fatal(err)
	}
	return status
}
