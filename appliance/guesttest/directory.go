package guesttest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
)

// Directory is dom0's side of a guest directory (see package guestdir). It is a Hand.
type Directory struct {
	t    *testing.T
	Path string // of the guest directory
}

// NewDirectory makes an empty guest directory that goes with the test.
func NewDirectory(t *testing.T) *Directory {
	t.Helper()
	return &Directory{t: t, Path: t.TempDir()}
}

// WriteDomain implements Hand.
func (d *Directory) WriteDomain(domain appliance.Domain) {
	d.t.Helper()
	d.write("vm", "/vm/"+domain.VM)
	d.write("unique-domain-id", domain.UniqueID)
}

// WriteInput implements Hand.
func (d *Directory) WriteInput(input map[string]string) {
	d.t.Helper()
	for name, value := range input {
		d.write(control.InputPrefix+name, value)
	}
}

// Plug implements Hand with a small image file.
func (d *Directory) Plug(number int, readOnly bool) {
	d.t.Helper()
	image := filepath.Join(d.t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, 4096), 0o644); err != nil {
		d.t.Fatal(err)
	}
	d.PlugImage(number, image, readOnly)
}

// PlugImage attaches an image file that exists.
func (d *Directory) PlugImage(number int, image string, readOnly bool) {
	d.t.Helper()
	mode := "w"
	if readOnly {
		mode = "r"
	}
	d.write(deviceKey(number), image+"\n"+mode)
}

// Unplug implements Hand. It does not wait for the guest to let go.
func (d *Directory) Unplug(number int) {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.Path, deviceKey(number))); err != nil {
		d.t.Fatal(err)
	}
}

// ReadPublication implements Hand.
func (d *Directory) ReadPublication(key string) (string, bool) {
	d.t.Helper()
	value, err := os.ReadFile(filepath.Join(d.Path, key))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.t.Fatal(err)
	}
	return string(value), err == nil
}

const shutdownKey = "control/shutdown"

// RequestShutdown implements Hand.
func (d *Directory) RequestShutdown(s appliance.Shutdown) {
	d.t.Helper()
	d.write(shutdownKey, string(s))
}

// Acknowledged implements Hand.
func (d *Directory) Acknowledged() bool {
	_, err := os.Stat(filepath.Join(d.Path, shutdownKey))
	return errors.Is(err, fs.ErrNotExist)
}

func deviceKey(number int) string { return "device/vbd/" + strconv.Itoa(number) }

// write replaces a value in one step, by a temporary name that readers ignore.
func (d *Directory) write(key, value string) {
	d.t.Helper()
	path := filepath.Join(d.Path, key)
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".dom0")
	err := errors.Join(
		os.MkdirAll(filepath.Dir(path), 0o755),
		os.WriteFile(temporary, []byte(value), 0o644),
		os.Rename(temporary, path),
	)
	if err != nil {
		d.t.Fatal(err)
	}
}
