package xapi_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// pieces frames parts of a content, each from an offset to another.
func pieces(content []byte, spans ...[2]int) xapi.DiskImport {
	var body []byte
	for _, s := range spans {
		body = append(xapi.AppendPiece(body, int64(s[0]), s[1]-s[0]), content[s[0]:s[1]]...)
	}
	body = xapi.AppendPiece(body, 0, 0)
	return xapi.DiskImport{Body: bytes.NewReader(body), Size: int64(len(body))}
}

// TestImportDisk writes to a disk on an SR that only the second host sees.
func TestImportDisk(t *testing.T) {
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
	write := func(ctx context.Context, o xapi.DiskImport) error {
		o.VDI, o.SR = disk, record.SR
		return client.ImportDisk(ctx, o)
	}
	holds := func(want []byte) {
		t.Helper()
		if got, err := os.ReadFile(pool.VDIPath(vm.VDIs[0])); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the disk holds something else, %v", err)
		}
	}
	old, fresh := bytes.Repeat([]byte("old "), size/4), bytes.Repeat([]byte("new!"), size/4)
	must(write(t.Context(), pieces(old, [2]int{0, size})))
	holds(old)
	must(write(t.Context(), pieces(fresh, [2]int{4096, 5 << 20}, [2]int{6 << 20, size})))
	holds(slices.Concat(old[:4096], fresh[4096:5<<20], old[5<<20:6<<20], fresh[6<<20:]))

	// What comes late: the host has said that all is well, and taken everything.
	if err := write(t.Context(), pieces(append(slices.Clone(fresh), 0), [2]int{0, size + 1})); !xapi.IsCode(err, "VDI_IO_ERROR") {
		t.Errorf("a piece beyond the disk: %v", err)
	}
	remove := pool.Fault(xapisim.Rule{Method: "http/put_import_raw_vdi", After: 1, Count: 1, Error: &xapisim.Error{Code: "SR_BACKEND_FAILURE_44", Params: []string{"", "full", ""}}})
	if err := write(t.Context(), pieces(fresh, [2]int{0, 4096})); !xapi.IsCode(err, "SR_BACKEND_FAILURE_44") {
		t.Errorf("a failure within: %v", err)
	}
	remove()
	remove = pool.Fault(xapisim.Rule{Method: "http/put_import_raw_vdi", After: 1, Count: 1, CutAfter: 1 << 20})
	if err := write(t.Context(), pieces(fresh, [2]int{0, size})); err == nil {
		t.Error("an upload that was cut was taken for a success")
	}
	remove()
	broken := errors.New("the source broke")
	o := pieces(fresh, [2]int{0, size})
	o.Body = io.MultiReader(io.LimitReader(o.Body, 1<<20), failing{broken})
	if err := write(t.Context(), o); !errors.Is(err, broken) {
		t.Errorf("a body that fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	o = pieces(fresh, [2]int{0, size})
	o.Body = io.MultiReader(io.LimitReader(o.Body, 1<<20), leaving{ctx, cancel})
	if err := write(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who has left: %v", err)
	}
	must(client.ImportDisk(t.Context(), xapi.DiskImport{VDI: disk, SR: record.SR, Body: bytes.NewReader(xapi.AppendPiece(nil, 0, 0)), Size: xapi.PieceHeader}))
	if err := write(t.Context(), xapi.DiskImport{}); err == nil {
		t.Error("nothing was uploaded")
	}
	if err := xapi.ReadOnly(client).ImportDisk(t.Context(), pieces(fresh)); !errors.Is(err, xapi.ErrReadOnly) {
		t.Errorf("a pool that is only to be looked at: %v", err)
	}
	tasks, err := xapi.AllRecords[xapi.Task](t.Context(), client, "task")
	must(err)
	for _, task := range tasks {
		t.Errorf("task %s is left: %s", task.NameLabel, task.Status)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// leaving cancels, and has nothing more to give.
type leaving struct {
	ctx    context.Context
	cancel func()
}

func (l leaving) Read([]byte) (int, error) {
	l.cancel()
	<-l.ctx.Done()
	return 0, l.ctx.Err()
}
