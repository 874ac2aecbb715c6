package xapisim_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func TestParseFaults(t *testing.T) {
	got, err := xapisim.ParseFaults([]byte(`{"seed": 7, "rules": [
		{"name": "full", "method": "VDI.*", "object": "nfs", "after": 2, "probability": 0.25, "count": 3, "delay": "20ms",
			"error": ["SR_BACKEND_FAILURE_44", "", "full", ""]},
		{"method": "VM.snapshot", "cut": "before"}, {"method": "VM.snapshot", "cut": "after"},
		{"method": "event.from", "hang": "before"}, {"method": "event.from", "hang": "after"},
		{"method": "http/put_import", "cut_after": 1048576}, {"object": "nfs", "slow": "2s", "bytes_per_second": 1000000},
		{"method": "VM.snapshot", "lie": {"kind": "fill", "object": "nfs", "free": 1048576}, "cut": "before"}
	]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []xapisim.Rule{
		{Name: "full", Method: "VDI.*", Object: "nfs", After: 2, Probability: 0.25, Seed: 7, Count: 3, Delay: 20 * time.Millisecond,
			Error: &xapisim.Error{Code: "SR_BACKEND_FAILURE_44", Params: []string{"", "full", ""}}},
		{Method: "VM.snapshot", Seed: 8, Cut: true}, {Method: "VM.snapshot", Seed: 9, CutReply: true},
		{Method: "event.from", Seed: 10, Hang: true}, {Method: "event.from", Seed: 11, HangReply: true},
		{Method: "http/put_import", Seed: 12, CutAfter: 1 << 20}, {Object: "nfs", Seed: 13, Slow: 2 * time.Second, BytesPerSecond: 1e6},
		{Method: "VM.snapshot", Seed: 14, Lie: &xapisim.Lie{Kind: "fill", Object: "nfs", Free: 1 << 20}, Cut: true},
	}
	if !reflect.DeepEqual(got.Rules, want) {
		t.Errorf("read %+v", got.Rules)
	}
}

// TestParseFaultsRefuses: an error names the rule, the member and what is wanted.
func TestParseFaultsRefuses(t *testing.T) {
	for _, c := range []struct{ rule, want string }{
		{`{"method": "VM.start", "eror": ["X"]}`, `"eror": no such member; there are after, bytes_per_second, count, cut, cut_after, delay, error, hang, lie`},
		{`{"method": "VM.start", "cut": "before", "method": "VM.start"}`, `"method": comes twice`},
		{`{"method": "VM.strat", "cut": "before"}`, `"method": there is no method VM.strat`},
		{`{"method": "VM.[", "cut": "before"}`, `"method": VM.[: syntax error in pattern`},
		{`{"method": "Async.VM.start", "cut": "before"}`, `"method": Async.VM.start: leave Async. away`},
		{`{"method": "", "cut": "before"}`, `"method": empty`},
		{`{"method": null, "cut": "before"}`, `"method": null: want a string`},
		{`{"method": 7, "cut": "before"}`, `"method": 7: want a string`},
		{`{"cut": "during"}`, `"cut": "during": want "before" or "after"`},
		{`{"cut": true}`, `"cut": true: want "before" or "after"`},
		{`{"hang": ""}`, `"hang": "": want "before" or "after"`},
		{`{"error": "INTERNAL_ERROR"}`, `"error": "INTERNAL_ERROR": want an array of strings`},
		{`{"error": []}`, `"error": empty`},
		{`{"error": [""]}`, `"error": the code is empty`},
		{`{"error": ["X", 7]}`, `"error": ["X", 7]: want an array of strings`},
		{`{"error": ["X"], "cut": "after"}`, `exclude each other`},
		{`{"cut": "before", "hang": "before"}`, `exclude each other`},
		{`{"method": "VM.start"}`, `it does nothing`},
		{`{"cut": "before", "count": 0}`, `"count": 0: want 1 or more`},
		{`{"cut": "before", "count": 1.5}`, `"count": 1.5: want a number of calls`},
		{`{"cut": "before", "after": -1}`, `"after": -1 calls`},
		{`{"cut": "before", "probability": 0}`, `"probability": 0: want more than 0`},
		{`{"cut": "before", "probability": 1.5}`, `"probability": 1.5: want more than 0`},
		{`{"delay": "5"}`, `"delay": "5": want a string with a unit`},
		{`{"delay": 5}`, `"delay": 5: want a string with a unit`},
		{`{"delay": "-5s"}`, `"delay": "-5s": want a string with a unit`},
		{`{"slow": "1s", "error": ["X"]}`, `"slow": a call that is not carried out takes no time`},
		{`{"slow": "1s", "method": "http/put_import"}`, `"slow": a handler of http/`},
		{`{"method": "VM.start", "cut_after": 10}`, `"cut_after": only for a method of http/`},
		{`{"method": "connection", "error": ["X"]}`, `"method": a connection can be cut, or hang`},
		{`{"method": "connection", "cut": "after"}`, `"method": a connection can be cut, or hang`},
		{`{"method": "connection", "cut": "before", "object": "x"}`, `"object": a connection has no object`},
		{`{"method": "connection", "cut": "before", "delay": "1s"}`, `"delay": a connection`},
		{`{"lie": "fill"}`, `"lie": a lie: "fill": want an object`},
		{`{"lie": {"kind": "fib", "object": "x"}}`, `"lie": there is no lie "fib": want one of fail-over, fill, garbage`},
		{`{"lie": {"kind": "fill"}}`, `"lie": lie fill: object is missing`},
		{`{"lie": {"kind": "fill", "object": "x", "fre": 1}}`, `"lie": a lie: "fre": no such member; there are blocks, count, free, keep, kind`},
		{`{"lie": {"kind": "fill", "object": "x", "object": "y"}}`, `"lie": a lie: "object": comes twice`},
		{`{"lie": {"kind": "fill", "object": "x", "free": "1"}}`, `"lie": a lie: "free": "1": want a number of bytes`},
		{`{"lie": {"kind": "fill", "object": "x"}, "method": "connection", "cut": "before"}`, `"lie": a connection`},
		{`7`, `7: want an object`},
	} {
		_, err := xapisim.ParseFaults([]byte(`{"rules": [{"delay": "1s"}, ` + c.rule + `]}`))
		if err == nil || !strings.HasPrefix(err.Error(), "rule 2: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want rule 2, %s", c.rule, err, c.want)
		}
	}
	for text, want := range map[string]string{
		``: "no JSON", `{`: "no JSON", `[]`: "want an object", `{} {}`: "something follows", `{"rule": []}`: `"rule": no such member`,
		`{"seed": -1}`: `"seed": -1: want a whole number`, `{"rules": {}}`: `"rules": {}: want an array`,
		`{"rules": [{"name": "first", "cut": 1}]}`:           `rule 1 (first): "cut"`,
		`{"rules": [` + strings.Repeat("{},", 1000) + `{}]}`: "1001 rules", strings.Repeat(" ", 1<<20+1): "bytes of rules",
	} {
		if _, err := xapisim.ParseFaults([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v; want %s", text, err, want)
		}
	}
	_, err := xapisim.ParseFaults([]byte(`{"rules": [{"cut": 1}]}`))
	if e, ok := errors.AsType[*xapisim.FieldError](err); !ok || e.Member != "cut" {
		t.Errorf("%v is no FieldError of its member", err)
	}
}

// TestFaultRefuses: what JSON cannot be, a rule of Go cannot be either.
func TestFaultRefuses(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	for _, rule := range []xapisim.Rule{
		{}, {Method: "VM.strat", Cut: true}, {Method: "VM.start", Cut: true, Hang: true}, {Delay: -1}, {Cut: true, Probability: -1},
		{Lie: &xapisim.Lie{Kind: "fib", Object: "x"}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v was taken", rule)
				}
			}()
			pool.Fault(rule)
		}()
	}
}

// TestFaultFiles reads the examples in files, and the one that the documentation shows.
func TestFaultFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/faults/*.json")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	const page = "../../docs/development.md"
	for _, file := range append(files, page) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if file == page {
			_, text, _ := strings.Cut(string(data), "```json\n")
			text, _, _ = strings.Cut(text, "```")
			data = []byte(text)
		}
		faults, err := xapisim.ParseFaults(data)
		if err != nil || len(faults.Rules) == 0 {
			t.Errorf("%s: %v", file, err)
		}
		pool := newPool(t, xapisim.Config{})
		faults.Add(pool)
	}
}

// FuzzParseFaults: whatever comes is refused with an error, or gives rules that a pool takes.
func FuzzParseFaults(f *testing.F) {
	f.Add([]byte(`{"seed": 7, "rules": [{"name": "full", "method": "VDI.*", "object": "nfs", "probability": 0.25, "error": ["X", ""]}]}`))
	f.Add([]byte(`{"rules": [{"method": "http/put_import", "cut_after": 1, "delay": "1h"}, {"hang": "after", "slow": "1ns"}]}`))
	f.Add([]byte(`{"rules": [{"cut": "before", "cut": null}]}`))
	f.Add([]byte(`{"rules": [{"method": "VM.start", "lie": {"kind": "lost-writes", "object": "nfs", "keep": 0.5, "seed": 7}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		faults, err := xapisim.ParseFaults(data)
		if err != nil {
			return
		}
		if !json.Valid(data) {
			t.Error("took what is no JSON")
		}
		for _, rule := range faults.Rules {
			if err := rule.Check(); err != nil {
				t.Error(err)
			}
		}
	})
}
