package xapi_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// plugging is a pool in which a disk is plugged, with what becomes of each call: its error, and when its effect is there.
type plugging struct {
	outcomes []outcome
	pending  bool // a task of the name never ends

	calls   int
	plugged time.Time // zero: never
}

type outcome struct {
	err    error
	effect time.Duration // after the call; negative: none
}

func (p *plugging) answer(method string, result any, _ []any) error {
	switch method {
	case "VBD.plug":
		o := p.outcomes[min(p.calls, len(p.outcomes)-1)]
		p.calls++
		if o.effect >= 0 && p.plugged.IsZero() {
			p.plugged = time.Now().Add(o.effect)
		}
		return o.err
	case "task.get_all_records":
		tasks := map[xapi.Ref]xapi.Task{}
		if p.pending {
			tasks["task"] = xapi.Task{NameLabel: "Async.VBD.plug", Status: xapi.TaskPending}
		}
		*result.(*map[xapi.Ref]xapi.Task) = tasks
	case "VBD.get_record":
		*result.(*xapi.VBD) = xapi.VBD{CurrentlyAttached: !p.plugged.IsZero() && !time.Now().Before(p.plugged)}
	}
	return nil
}

func TestEnsure(t *testing.T) {
	lost := errors.Join(xapi.ErrOutcomeUnknown, invalid("task", "OpaqueRef:t"))
	already := &xapi.Error{Code: "DEVICE_ALREADY_ATTACHED"}
	for name, c := range map[string]struct {
		pool  plugging
		calls int
		want  error // nil: it must succeed
	}{
		"answered":                            {plugging{outcomes: []outcome{{nil, 0}}}, 1, nil},
		"carried out, the answer lost":        {plugging{outcomes: []outcome{{lost, 0}}}, 1, nil},
		"carried out a little later":          {plugging{outcomes: []outcome{{lost, time.Second}}}, 1, nil},
		"lost before it was carried out":      {plugging{outcomes: []outcome{{lost, -1}, {nil, 0}}}, 2, nil},
		"lost twice":                          {plugging{outcomes: []outcome{{lost, -1}, {lost, 0}}}, 2, nil},
		"lost each time":                      {plugging{outcomes: []outcome{{lost, -1}}}, 4, xapi.ErrOutcomeUnknown},
		"carried out so late that it is both": {plugging{outcomes: []outcome{{lost, 3 * time.Second}, {already, -1}}}, 2, nil},
		"lost, then refused":                  {plugging{outcomes: []outcome{{lost, -1}, {already, -1}}}, 2, already},
		"refused":                             {plugging{outcomes: []outcome{{already, 0}}}, 1, already},
		"a task that does not end":            {plugging{outcomes: []outcome{{lost, -1}}, pending: true}, 1, xapi.ErrOutcomeUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := stub(c.pool.answer)
				done := xapi.Record(api, "VBD", "OpaqueRef:vbd", func(v xapi.VBD) bool { return v.CurrentlyAttached })
				err := xapi.Ensure(t.Context(), api, "VBD.plug", done, xapi.Ref("OpaqueRef:vbd"))
				if !errors.Is(err, c.want) || c.pool.calls != c.calls {
					t.Errorf("%d calls, %v", c.pool.calls, err)
				}
			})
		})
	}
}

// TestEnsureIsLeft: a caller who has left gets no second call, and no look.
func TestEnsureIsLeft(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	pool := plugging{outcomes: []outcome{{xapi.ErrOutcomeUnknown, 0}}}
	api := stub(func(method string, result any, args []any) error {
		leave()
		return pool.answer(method, result, args)
	})
	err := xapi.Ensure(ctx, api, "VBD.plug", func(context.Context) (bool, error) { return true, nil })
	if !errors.Is(err, xapi.ErrOutcomeUnknown) || pool.calls != 1 {
		t.Errorf("%d calls, %v", pool.calls, err)
	}
}

// TestMakeFindsWhatItMade looks for a VBD whose creation was not answered, among others of the VM.
func TestMakeFindsWhatItMade(t *testing.T) {
	vbds := map[xapi.Ref]xapi.VBD{
		"elsewhere": {VDI: "vdi", UserDevice: "4"}, "another's": {VDI: "other", UserDevice: "5"}, "ours": {VDI: "vdi", UserDevice: "5"},
	}
	listed := []xapi.Ref{"gone", "elsewhere", "another's", "ours"}
	api := stub(func(method string, result any, args []any) error {
		switch method {
		case "VBD.create":
			return xapi.ErrOutcomeUnknown
		case "VM.get_VBDs":
			*result.(*[]xapi.Ref) = listed
		case "VBD.get_record":
			ref := args[0].(xapi.Ref)
			record, there := vbds[ref]
			if !there {
				return invalid("VBD", string(ref))
			}
			*result.(*xapi.VBD) = record
		}
		return nil
	})
	record := map[string]any{"VM": xapi.Ref("vm"), "VDI": xapi.Ref("vdi"), "userdevice": "5"}
	if ref, err := xapi.MakeVBD(t.Context(), api, record); ref != "ours" || err != nil {
		t.Errorf("%s, %v", ref, err)
	}
	listed = append(listed, "ours")
	if ref, err := xapi.MakeVBD(t.Context(), api, record); !errors.Is(err, xapi.ErrOutcomeUnknown) || !strings.Contains(err.Error(), "2 objects") {
		t.Errorf("of two that it may be it took %s, %v", ref, err)
	}
}

// TestDestroyIsRepeated: what is gone was destroyed.
func TestDestroyIsRepeated(t *testing.T) {
	for name, failure := range map[string]error{"lost": xapi.ErrOutcomeUnknown, "gone before": invalid("VBD", "vbd")} {
		api := stub(func(method string, _ any, _ []any) error {
			switch method {
			case "VBD.destroy":
				return failure
			case "VBD.get_uuid":
				return invalid("VBD", "vbd")
			}
			return nil
		})
		if err := xapi.Destroy(t.Context(), api, "VBD", "vbd"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
