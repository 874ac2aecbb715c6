package xapi_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/vhd"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// TestExportDisk has a disk on an SR that only the second host sees, and its snapshot.
func TestExportDisk(t *testing.T) {
	pool, err := xapisim.New(xapisim.Config{
		Name: "pool", Dir: t.TempDir(), Hosts: 2, EventDelay: -1, SRs: []xapisim.SRConfig{{Name: "local", Host: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	const size = 8 << 20
	vm, err := pool.AddVM(xapisim.VMConfig{Name: "a VM", Disks: []xapisim.DiskConfig{{SR: "local", Size: size}}})
	if err != nil {
		t.Fatal(err)
	}
	client := dial(t, xapi.Config{Addresses: pool.Addresses()[:1], Username: "root", Password: "xenroot", Fingerprints: pool.Fingerprints()[:1]})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	disk, err := xapi.GetByUUID(t.Context(), client, "VDI", vm.VDIs[0])
	must(err)
	record, err := xapi.GetRecord[xapi.VDI](t.Context(), client, "VDI", disk)
	must(err)
	var base string
	must(client.Run(t.Context(), "VDI.snapshot", &base, disk, map[string]string{}))
	export := xapi.DiskExport{VDI: disk, SR: record.SR, Base: xapi.Ref(base), Format: "vhd"}

	blocks := func() (listed []int64) {
		t.Helper()
		must(client.ExportDisk(t.Context(), export, func(stream io.Reader) error {
			r, err := vhd.NewReader(stream, size)
			if err != nil {
				return err
			}
			if !r.Differencing {
				t.Error("the whole disk was sent")
			}
			for {
				block, err := r.Next()
				if errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				listed = append(listed, block)
			}
		}))
		return listed
	}
	if got := blocks(); len(got) != 0 {
		t.Errorf("of an untouched disk blocks %v are listed", got)
	}
	f, err := os.OpenFile(pool.VDIPath(vm.VDIs[0]), os.O_WRONLY, 0)
	must(err)
	defer f.Close()
	if _, err := f.WriteAt([]byte("written"), 5<<20); err != nil {
		t.Fatal(err)
	}
	if got := blocks(); len(got) != 1 || got[0] != 2 { // whose content is not read
		t.Errorf("blocks %v are listed", got)
	}

	full := errors.New("that is enough")
	if err := client.ExportDisk(t.Context(), xapi.DiskExport{VDI: disk, SR: record.SR, Format: "raw"}, func(io.Reader) error { return full }); !errors.Is(err, full) {
		t.Errorf("what the reader says is %v", err)
	}
	refused := export
	refused.Format = "vmdk"
	if err := client.ExportDisk(t.Context(), refused, func(io.Reader) error { return nil }); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("an unknown format: %v", err)
	}
	pool.Fault(xapisim.Rule{Method: "http/get_export_raw_vdi", Count: 1, Error: &xapisim.Error{Code: "VDI_IO_ERROR", Params: []string{"Device I/O errors"}}})
	err = client.ExportDisk(t.Context(), export, func(stream io.Reader) error {
		_, err := vhd.NewReader(stream, size)
		return err
	})
	if !xapi.IsCode(err, "VDI_IO_ERROR") {
		t.Errorf("a failure within: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	if err := client.ExportDisk(cancelled, export, func(io.Reader) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who has left: %v", err)
	}
	must(xapi.DestroyVDI(t.Context(), client, xapi.Ref(base))) // nothing holds it any more
	tasks, err := xapi.AllRecords[xapi.Task](t.Context(), client, "task")
	must(err)
	for _, task := range tasks {
		t.Errorf("task %s is left: %s", task.NameLabel, task.Status)
	}
}
