package xapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// scripted is an API whose answers a function gives; it keeps what was asked.
type scripted struct {
	xapi.API
	asked  []string
	answer func(method string) (string, error)
}

func (s *scripted) Call(_ context.Context, method string, result any, args ...any) error {
	s.asked = append(s.asked, fmt.Sprint(append([]any{method}, args...)...))
	text, err := s.answer(method)
	if err != nil || result == nil {
		return err
	}
	return json.Unmarshal([]byte(text), result)
}

func (s *scripted) Run(ctx context.Context, method string, _ *string, args ...any) error {
	return s.Call(ctx, method, nil, args...)
}

func (s *scripted) Events(context.Context, []string, string, time.Duration) (xapi.EventBatch, error) {
	return xapi.EventBatch{}, nil
}

func TestSetOtherConfigKey(t *testing.T) {
	adds := 0
	api := &scripted{answer: func(method string) (string, error) {
		if method == "VM.add_to_other_config" {
			if adds++; adds < 3 {
				return "", &xapi.Error{Code: "MAP_DUPLICATE_KEY"}
			}
		}
		return "", nil
	}}
	if err := xapi.SetOtherConfigKey(t.Context(), api, "VM", "ref", "k", "v"); err != nil || len(api.asked) != 6 {
		t.Errorf("%v after %q", err, api.asked)
	}
	if strings.HasPrefix(api.asked[0], "VM.add") || !strings.HasPrefix(api.asked[1], "VM.add") {
		t.Errorf("the order is %q", api.asked)
	}
	stubborn := &scripted{answer: func(method string) (string, error) {
		if method == "VM.add_to_other_config" {
			return "", &xapi.Error{Code: "MAP_DUPLICATE_KEY"}
		}
		return "", nil
	}}
	if err := xapi.SetOtherConfigKey(t.Context(), stubborn, "VM", "ref", "k", "v"); !xapi.IsCode(err, "MAP_DUPLICATE_KEY") {
		t.Errorf("got %v", err)
	}
}

func TestDestroyVDIWaitsForAnUnplug(t *testing.T) {
	cases := map[string]struct {
		failures int
		code     string
		waited   time.Duration
		ok       bool
	}{
		"at once":        {0, "", 0, true},
		"in use twice":   {2, "VDI_IN_USE", 10 * time.Second, true},
		"busy once":      {1, "OTHER_OPERATION_IN_PROGRESS", 5 * time.Second, true},
		"in use forever": {99, "VDI_IN_USE", 45 * time.Second, false},
		"gone already":   {1, "HANDLE_INVALID", 0, true},
		"refused":        {1, "VDI_IS_A_PHYSICAL_DEVICE", 0, false},
	}
	for name, c := range cases {
		synctest.Test(t, func(t *testing.T) {
			api := &scripted{}
			api.answer = func(string) (string, error) {
				if len(api.asked) <= c.failures {
					return "", &xapi.Error{Code: c.code, Params: []string{"VDI", "ref"}}
				}
				return "", nil
			}
			start := time.Now()
			err := xapi.DestroyVDI(t.Context(), api, "ref")
			if (err == nil) != c.ok || time.Since(start) != c.waited || (!c.ok && !xapi.IsCode(err, c.code)) {
				t.Errorf("%s: %v after %v", name, err, time.Since(start))
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		api := &scripted{answer: func(string) (string, error) { return "", &xapi.Error{Code: "VDI_IN_USE"} }}
		start := time.Now()
		if err := xapi.DestroyVDI(ctx, api, "ref"); err == nil || time.Since(start) != time.Second {
			t.Errorf("cancelled: %v after %v", err, time.Since(start))
		}
	})
}

func TestTypedReads(t *testing.T) {
	api := &scripted{answer: func(method string) (string, error) {
		return map[string]string{
			"VDI.get_record":      `{"uuid":"u","virtual_size":9007199254740993}`,
			"VDI.get_all_records": `{"OpaqueRef:a":{"uuid":"u"}}`,
			"VDI.get_by_uuid":     `"OpaqueRef:a"`,
		}[method], nil
	}}
	vdi, err := xapi.GetRecord[xapi.VDI](t.Context(), api, "VDI", "ref")
	if err != nil || vdi.UUID != "u" || vdi.VirtualSize != 1<<53+1 {
		t.Errorf("%+v, %v", vdi, err)
	}
	all, err := xapi.AllRecords[xapi.VDI](t.Context(), api, "VDI")
	if err != nil || all["OpaqueRef:a"].UUID != "u" {
		t.Errorf("%+v, %v", all, err)
	}
	ref, err := xapi.GetByUUID(t.Context(), api, "VDI", "u")
	if err != nil || ref != "OpaqueRef:a" {
		t.Errorf("%s, %v", ref, err)
	}
}
