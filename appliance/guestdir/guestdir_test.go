package guestdir_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/appliance/guestdir"
	"github.com/understudy-dr/understudy/appliance/guesttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T) (*guestdir.Guest, *guesttest.Directory) {
	t.Helper()
	d := guesttest.NewDirectory(t)
	g, err := guestdir.Open(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g, d
}

func TestGuest(t *testing.T) {
	guesttest.TestGuest(t, func(t *testing.T) (appliance.Guest, guesttest.Hand) { return start(t) })
}

func TestRefusedAsInit(t *testing.T) {
	if g, err := guestdir.OpenAs(t.TempDir(), 1); !errors.Is(err, guestdir.ErrInit) || g != nil {
		t.Errorf("opened as PID 1: %v, want ErrInit", err)
	}
}

func TestOpenMissing(t *testing.T) {
	if _, err := guestdir.Open(filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("a directory that does not exist was opened")
	}
}

// Names that begin with a dot are files being written.
func TestIgnoresTemporaryFiles(t *testing.T) {
	g, d := start(t)
	d.WriteInput(map[string]string{"nonce": "00", ".nonce.1": "half a va"})
	input, err := g.Input(t.Context())
	if err != nil || len(input) != 1 || input["nonce"] != "00" {
		t.Errorf("Input is %v, %v, want the nonce alone", input, err)
	}
}

func TestNoTemporaryFilesLeft(t *testing.T) {
	g, d := start(t)
	if err := g.Publish(t.Context(), appliance.Entry{Key: "attr/a", Value: "1"}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(d.Path, "attr"))
	if err != nil || len(entries) != 1 || entries[0].Name() != "a" {
		t.Errorf("attr holds %v, %v, want the value alone", entries, err)
	}
}

func TestValuesAreBounded(t *testing.T) {
	g, d := start(t)
	long := strings.Repeat("x", 5000)
	if err := g.Publish(t.Context(), appliance.Entry{Key: "attr/a", Value: long}); err == nil {
		t.Error("a value larger than XenStore's was published")
	}
	d.WriteInput(map[string]string{"nonce": long})
	if _, err := g.Input(t.Context()); err == nil {
		t.Error("a value larger than XenStore's was read")
	}
}

func TestKeysStayInside(t *testing.T) {
	g, d := start(t)
	for _, key := range []string{"../outside", "/etc/outside", "attr/../../outside"} {
		if err := g.Publish(t.Context(), appliance.Entry{Key: key, Value: "1"}); err == nil {
			t.Errorf("key %s left the directory", key)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(d.Path), "outside")); err == nil {
		t.Error("a file was written outside")
	}
}

func TestDeviceFormat(t *testing.T) {
	for name, test := range map[string]struct{ name, value string }{
		"relative path": {"4", "disk.raw\nw"},
		"no mode":       {"4", "/disk.raw"},
		"other mode":    {"4", "/disk.raw\nx"},
		"trailing line": {"4", "/disk.raw\nw\n"},
		"letter":        {"xvda", "/disk.raw\nw"},
		"leading zero":  {"04", "/disk.raw\nw"},
		"negative":      {"-1", "/disk.raw\nw"},
	} {
		t.Run(name, func(t *testing.T) {
			g, d := start(t)
			path := filepath.Join(d.Path, "device/vbd", test.name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(test.value), 0o644)); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- g.WatchDevices(t.Context(), func(appliance.DeviceEvent) {}) }()
			select {
			case err := <-ended:
				if err == nil || !strings.Contains(err.Error(), "device/vbd/"+test.name) {
					t.Errorf("error is %v, want one that names the key", err)
				}
			case <-time.After(5 * time.Second):
				t.Error("the malformed device was accepted")
			}
		})
	}
}

// What is written to a removed key's place is another disk.
func TestDeviceReplaced(t *testing.T) {
	g, d := start(t)
	d.PlugImage(4, "/one", false)
	events := make(chan appliance.DeviceEvent, 8)
	ended := make(chan error, 1)
	go func() { ended <- g.WatchDevices(t.Context(), func(e appliance.DeviceEvent) { events <- e }) }()
	if e := <-events; e.Path != "/one" {
		t.Fatalf("event is %+v", e)
	}
	d.PlugImage(4, "/two", true)
	if gone, come := <-events, <-events; gone.Plugged || !come.Plugged || come.Path != "/two" || !come.ReadOnly {
		t.Errorf("events are %+v, %+v, want disk 4 gone and come", gone, come)
	}
}

func TestPowerOffWithoutCause(t *testing.T) {
	g, d := start(t)
	if err := g.PowerOff(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if cause, _ := d.ReadPublication(control.CauseKey); cause == "" {
		t.Error("no cause was published")
	}
}
