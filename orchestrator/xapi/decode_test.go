package xapi_test

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// ask gives the answer of a host whose result is this text.
func ask(t *testing.T, text string, result any) error {
	t.Helper()
	host := newFakeHost(t, "127.0.0.1:0")
	host.on("x.get_y", verbatim(`{"jsonrpc":"2.0","result":`+text+`,"id":1}`))
	return dial(t, configFor(host)).Call(t.Context(), "x.get_y", result)
}

// TestNumbersInEveryForm has integers beyond 2^53, numbers as text as XML-RPC has them, and what JSON has no form for.
func TestNumbersInEveryForm(t *testing.T) {
	type vdis = map[xapi.Ref]xapi.VDI
	for text, want := range map[string]any{
		`9223372036854775807`:   int64(math.MaxInt64),
		`"9223372036854775807"`: int64(math.MaxInt64),
		`"-5"`:                  int64(-5),
		`"0.5"`:                 0.5,
		`NaN`:                   0.0,
		`-Infinity`:             0.0,
		`{"a":{"name_label":"17","virtual_size":"9007199254740993"},"b":{"virtual_size":3}}`: vdis{
			"a": {NameLabel: "17", VirtualSize: 1<<53 + 1}, "b": {VirtualSize: 3},
		},
		`{"VCPUs_utilisation":{"0":NaN,"1":0.25},"memory_actual":7}`:         xapi.VMMetrics{MemoryActual: 7},
		`{"name_label":"NaN \\\"Infinity","HVM_shadow_multiplier":Infinity}`: xapi.VM{NameLabel: `NaN \"Infinity`},
		`{"VCPUs_number":"2","start_time":"20250319T04:16:24Z"}`: xapi.VMMetrics{
			VCPUsNumber: 2, StartTime: xapi.Time{Time: time.Date(2025, 3, 19, 4, 16, 24, 0, time.UTC)},
		},
		`["1",2]`: []int64{1, 2},
	} {
		got := reflect.New(reflect.TypeOf(want))
		if err := ask(t, text, got.Interface()); err != nil || !reflect.DeepEqual(got.Elem().Interface(), want) {
			t.Errorf("%s: %+v, %v", text, got.Elem().Interface(), err)
		}
	}
}

// TestResultsOfTheWrongType are refused with a cause, whatever they are.
func TestResultsOfTheWrongType(t *testing.T) {
	for text, result := range map[string]any{
		`"seven"`:                      new(int64),
		`"9223372036854775808"`:        new(int64),
		`9223372036854775808`:          new(int64),
		`1.5`:                          new(int64),
		`"NaN"`:                        new(float64),
		`"true"`:                       new(bool),
		`{"a":1}`:                      new([]xapi.Ref),
		`["a"]`:                        new(map[xapi.Ref]xapi.VM),
		`{"a":"a reference"}`:          new(map[xapi.Ref]xapi.VM),
		`{"virtual_size":{}}`:          new(xapi.VDI),
		`{"snapshot_time":"tomorrow"}`: new(xapi.VDI),
		`{"snapshot_time":0}`:          new(xapi.VDI),
		`{"VBDs":[{}]}`:                new(xapi.VM),
		`{"power_state":1}`:            new(xapi.VM),
		`{"events":{},"token":"t"}`:    new(xapi.EventBatch),
		`1e999`:                        new(float64),
		strings.Repeat(`[`, 20000) + strings.Repeat(`]`, 20000): new(any),
	} {
		if err := ask(t, text, result); !errors.Is(err, xapi.ErrMalformed) || !strings.Contains(err.Error(), "x.get_y") || len(err.Error()) > 1000 {
			t.Errorf("%.40s: %v", text, err)
		}
	}
}

func TestTimes(t *testing.T) {
	want := time.Date(2025, 3, 19, 4, 16, 24, 0, time.UTC)
	for _, text := range []string{
		"20250319T04:16:24Z", "20250319T04:16:24", "2025-03-19T04:16:24Z", "2025-03-19T04:16:24", "20250319T06:16:24+02:00",
		"20250318T23:46:24-0430", "20250319T06:16:24+02", "2025-03-19T06:16:24+0200", "2025-03-19T04:16:24.000Z", "20250319T04:16:24.000",
	} {
		got, err := xapi.ParseTime(text)
		if err != nil || !got.Equal(want) || got.Location() != time.UTC {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"19700101T00:00:00Z", "1970-01-01T00:00:00", "19700101T02:00:00+02:00", ""} {
		if got, err := xapi.ParseTime(text); err != nil || !got.IsZero() {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"yesterday", "20250319", "20251319T04:16:24Z", "20250319T04:16", "20250319 04:16:24Z", "99991231T23:59:59-10:00"} {
		if got, err := xapi.ParseTime(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
	text, err := json.Marshal([]xapi.Time{{Time: want}, {}})
	if err != nil || string(text) != `["20250319T04:16:24Z","19700101T00:00:00Z"]` {
		t.Errorf("%s, %v", text, err)
	}
}

// FuzzTime: what is read can be written, and is then the same second.
func FuzzTime(f *testing.F) {
	for _, seed := range []string{"20250319T04:16:24Z", "2025-03-19T04:16:24.5+02:00", "00010101T00:00:00Z", "19700101T00:00:00Z", "00000101T00:00:00-01"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := xapi.ParseTime(text)
		if err != nil {
			return
		}
		again, err := xapi.ParseTime(got.String())
		if err != nil || !again.Equal(got.Truncate(time.Second)) && got.Truncate(time.Second).Unix() != 0 {
			t.Fatalf("%q is %v, written as %s it is %v, %v", text, got, got.String(), again, err)
		}
	})
}
