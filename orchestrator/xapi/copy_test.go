package xapi_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// dying is a pool whose coordinator dies over the first copy of a VM: what it has made by then is left, and nobody is told.
type dying struct {
	*xapi.Client
	leave  func(ctx context.Context, made xapi.Ref) error // takes away what was not made yet
	copies int
}

func (d *dying) Run(ctx context.Context, method string, result *string, args ...any) error {
	if strings.HasSuffix(method, ".destroy") {
		return d.Client.Run(ctx, method, result, args...)
	}
	if d.copies++; d.copies > 1 {
		return d.Client.Run(ctx, method, result, args...)
	}
	var made string
	if err := d.Client.Run(ctx, method, &made, args...); err != nil {
		return err
	}
	return errors.Join(fmt.Errorf("%s: %w", method, xapi.ErrOutcomeUnknown), d.leave(ctx, xapi.Ref(made)))
}

// TestAHalfMadeCopyIsMadeAgain: a copy is whole, or is removed and made again; the disks that it had got are gone.
func TestAHalfMadeCopyIsMadeAgain(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		args   []any
		class  string // of the devices of which so many were made before the coordinator died
		keep   int
		runs   int
		stray  int // disks that had no VBD yet
	}{
		"whole":                        {"VM.snapshot", nil, "VBD", 2, 1, 0},
		"a snapshot without its disks": {"VM.snapshot", nil, "VBD", 0, 2, 2},
		"a clone with one of two":      {"VM.clone", nil, "VBD", 1, 2, 1},
		"a copy without its interface": {"VM.copy", []any{xapi.NullRef}, "VIF", 0, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, of := poolWithAVM(t)
			api := &dying{Client: client, leave: func(ctx context.Context, vm xapi.Ref) error {
				var devices []xapi.Ref
				err := client.Call(ctx, "VM.get_"+c.class+"s", &devices, vm)
				for _, ref := range devices[min(c.keep, len(devices)):] {
					err = errors.Join(err, client.Call(ctx, c.class+".destroy", nil, ref))
				}
				return err
			}}
			made, err := xapi.CopyVM(t.Context(), api, c.method, of, name, c.args...)
			if err != nil || api.copies != c.runs {
				t.Fatalf("%v after %d calls", err, api.copies)
			}
			var named []xapi.Ref
			if err := client.Call(t.Context(), "VM.get_by_name_label", &named, name); err != nil || len(named) != 1 || named[0] != made {
				t.Errorf("%v are called so, %s was made: %v", named, made, err)
			}
			vm, err := xapi.GetRecord[xapi.VM](t.Context(), client, "VM", made)
			if err != nil || len(vm.VBDs) != 2 || len(vm.VIFs) != 1 {
				t.Errorf("it has %d disks and %d interfaces, %v", len(vm.VBDs), len(vm.VIFs), err)
			}
			disks := 0
			vdis, err := xapi.AllRecords[xapi.VDI](t.Context(), client, "VDI")
			for _, vdi := range vdis {
				if vdi.Managed {
					disks++
				}
			}
			if err != nil || disks != 2+2+c.stray {
				t.Errorf("%d disks, want %d, %v", disks, 2+2+c.stray, err)
			}
		})
	}
}

// poolWithAVM is a pool whose VM has two disks and an interface.
func poolWithAVM(t *testing.T) (*xapi.Client, xapi.Ref) {
	t.Helper()
	pool, err := xapisim.New(xapisim.Config{
		Name: "pool", Dir: t.TempDir(), EventDelay: -1, AuthDelay: time.Millisecond, SRs: []xapisim.SRConfig{{Name: "local"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	added, err := pool.AddVM(xapisim.VMConfig{Name: "a VM", Disks: []xapisim.DiskConfig{{SR: "local", Size: 8 << 20}, {SR: "local", Size: 8 << 20}}})
	if err != nil {
		t.Fatal(err)
	}
	client := dial(t, xapi.Config{Addresses: pool.Addresses(), Username: "root", Password: "xenroot", Fingerprints: pool.Fingerprints()})
	return client, xapi.Ref(added.Ref)
}
