package xapisim_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// TestTranscripts makes the calls that were recorded with a running xapi, in their order, and compares the shape of the
// answers: the members of records, the types of values, the code and the parameters of errors. References and uuids of
// the record are bound to those of the simulator where they first appear in an answer.
func TestTranscripts(t *testing.T) {
	pool := newPool(t, xapisim.Config{SRs: []xapisim.SRConfig{{Name: "Local storage"}, {Name: "Local storage 2", Type: "nfs"}}})
	c := connect(t, pool)
	r := &replay{t: t, c: c, bound: map[string]string{
		nullRef: nullRef,
		"OpaqueRef:caa0e5e4-15ea-bb66-5e20-ae99f7f0c77b": c.one("host"),
		"OpaqueRef:e24c08e2-242d-34e1-2b06-193cfb1447af": c.one("pool"),
		"OpaqueRef:dc5da6e8-d65a-b124-82fb-501f27d32d8e": c.one("network"),
		"OpaqueRef:f2e643e3-7731-82ca-1491-d26f266f81e4": c.one("SR", "Local storage"),
		"OpaqueRef:8d9f088d-2409-3638-41de-345bf0af0c7f": c.one("host"),
		// Made by calls that are not in the record.
		"OpaqueRef:1703b736-2f4f-5ec7-1233-74d9849eba57": c.newVDI(c.one("SR", "Local storage"), 16*mib),
		"OpaqueRef:fe438fa1-b883-b4f1-9e7e-ddee99d4c245": addVM(t, pool, xapisim.VMConfig{Name: "asyncvm", Disks: []xapisim.DiskConfig{{Size: 16 * mib}}}),
		"OpaqueRef:f4ec4898-5b97-2dd5-6951-70d9f153fade": addVM(t, pool, xapisim.VMConfig{Name: "huge", Memory: 200 << 30}),
		"OpaqueRef:67e81640-86d2-3bab-2034-94ac8b00f9ed": addVM(t, pool, xapisim.VMConfig{Name: "text"}),
		"OpaqueRef:c698821c-8b62-ba57-c9a0-1aca52a444b4": addVM(t, pool, xapisim.VMConfig{Name: "bootable"}),
	}}
	file, err := os.Open("testdata/transcripts.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	calls := 0
	for lines.Scan() {
		var line recorded
		decoder := json.NewDecoder(strings.NewReader(lines.Text()))
		decoder.UseNumber()
		if err := decoder.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if line.Request.Method == "" {
			continue // the first line names the source
		}
		calls++
		if line.Seq == 164 { // the record's blocked operations were lifted by a call that is not in it
			c.call("VM.set_blocked_operations", r.translate("OpaqueRef:4b4c2273-7b1b-debe-0642-02a2aa5dec8e"), map[string]string{})
		}
		r.line(line)
	}
	if err := lines.Err(); err != nil || calls < 150 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func addVM(t *testing.T, pool *xapisim.Pool, config xapisim.VMConfig) string {
	t.Helper()
	added, err := pool.AddVM(config)
	if err != nil {
		t.Fatal(err)
	}
	return added.Ref
}

type recorded struct {
	Seq     int    `json:"seq"`
	Name    string `json:"name"`
	Request struct {
		JSONRPC string `json:"jsonrpc,omitempty"`
		Method  string `json:"method"`
		Params  any    `json:"params"`
		ID      any    `json:"id"`
	} `json:"request"`
	Response map[string]any `json:"response"`
}

type replay struct {
	t     *testing.T
	c     *client
	bound map[string]string // recorded references and uuids → the simulator's
}

var identifier = regexp.MustCompile(`(OpaqueRef:)?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

func (r *replay) line(line recorded) {
	at := fmt.Sprintf("%d %s", line.Seq, line.Name)
	line.Request.Params = r.translate(line.Request.Params)
	if params, ok := line.Request.Params.([]any); ok && line.Request.Method == "event.from" {
		params[3] = 0.05 // nothing is to come that would be worth the record's waits
	}
	r.useSession(&line)
	body, err := json.Marshal(line.Request)
	if err != nil {
		r.t.Fatal(err)
	}
	_, answer := r.c.post(string(body))
	var got map[string]any
	decoder := json.NewDecoder(strings.NewReader(string(answer)))
	decoder.UseNumber()
	if err := decoder.Decode(&got); err != nil {
		r.t.Errorf("%s: %s", at, answer)
		return
	}
	if want, failed := line.Response["error"]; failed && want != nil {
		r.sameError(at, want, got)
		return
	}
	if got["error"] != nil {
		r.t.Errorf("%s: %v", at, got["error"])
		return
	}
	r.same(at, line.Response["result"], got["result"], isRecord(line.Request.Method))
	r.settle(line.Request.Method, got["result"], line.Request.Params)
}

// useSession puts the test's session in the place of the recorded ones, unless the call is about a bad one.
func (r *replay) useSession(line *recorded) {
	params, ok := line.Request.Params.([]any)
	if !ok || len(params) == 0 || strings.HasPrefix(line.Request.Method, "session.") {
		return
	}
	if fmt.Sprint(line.Response["error"]) == "<nil>" || !strings.Contains(fmt.Sprint(line.Response["error"]), "SESSION_INVALID") {
		params[0] = r.c.session
	}
}

// settle waits for what the recorded host had done by the next call: tasks, and the agents of started VMs.
func (r *replay) settle(method string, result any, params any) {
	if strings.HasPrefix(method, "Async.") {
		task, _ := result.(string)
		eventually(r.t, "the end of "+method, func() bool { return r.c.text("task.get_status", task) != "pending" })
	}
	if list, ok := params.([]any); ok && strings.HasPrefix(strings.TrimPrefix(method, "Async."), "VM.start") {
		vm := fmt.Sprint(list[1])
		eventually(r.t, "the agent of a VM", func() bool {
			state, err := r.c.try("VM.get_power_state", vm)
			if err != nil || state != "Running" {
				return true
			}
			metrics, err := r.c.try("VM_guest_metrics.get_PV_drivers_detected", r.c.text("VM.get_guest_metrics", vm))
			return err == nil && metrics == true
		})
	}
}

func (r *replay) translate(v any) any {
	switch v := v.(type) {
	case string:
		return identifier.ReplaceAllStringFunc(v, func(id string) string {
			if known, ok := r.bound[id]; ok {
				return known
			}
			return id
		})
	case []any:
		out := []any{}
		for _, item := range v {
			out = append(out, r.translate(item))
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for key, item := range v {
			out[key] = r.translate(item)
		}
		return out
	}
	return v
}

// sameError compares code and parameters; free texts and amounts of memory are compared by their presence only.
func (r *replay) sameError(at string, want any, got map[string]any) {
	code, params := errorOf(want)
	gotCode, gotParams := errorOf(got["error"])
	if code != gotCode || len(params) != len(gotParams) {
		r.t.Errorf("%s: %v, want %v", at, got, want)
		return
	}
	for n, param := range params {
		if text := fmt.Sprint(r.translate(param)); len(strings.Trim(text, "0123456789")) > 0 && !strings.ContainsAny(text, " (") && text != fmt.Sprint(gotParams[n]) {
			r.t.Errorf("%s: parameter %d is %v, want %v", at, n, gotParams[n], text)
		}
	}
}

func errorOf(v any) (code any, params []any) {
	switch v := v.(type) {
	case map[string]any:
		params, _ = v["data"].([]any)
		return v["message"], params
	case []any:
		return v[0], v[1:]
	}
	return nil, nil
}

func isRecord(method string) bool { return strings.HasSuffix(method, ".get_record") }

// same compares shapes. The members of records must agree; those of maps are data.
func (r *replay) same(at string, want, got any, record bool) {
	if fmt.Sprintf("%T", want) != fmt.Sprintf("%T", got) {
		r.t.Errorf("%s: %T %v, want %T %v", at, got, got, want, want)
		return
	}
	switch want := want.(type) {
	case string:
		r.bind(want, got.(string))
	case []any:
		got := got.([]any)
		for n := range min(len(want), len(got)) {
			r.same(fmt.Sprintf("%s[%d]", at, n), want[n], got[n], false)
		}
	case map[string]any:
		got := got.(map[string]any)
		if record {
			wanted, given := slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))
			if !slices.Equal(wanted, given) {
				r.t.Errorf("%s: members %v, want %v", at, given, wanted)
			}
		}
		for key := range want {
			if item, ok := got[key]; ok {
				r.same(at+"."+key, want[key], item, key == "snapshot")
			}
		}
		r.sameRows(at, want, got)
	}
}

// sameRows compares the answers of get_all_records by one row of each: their references differ.
func (r *replay) sameRows(at string, want, got map[string]any) {
	for ref, row := range want {
		if _, isRow := row.(map[string]any); !isRow || !strings.HasPrefix(ref, "OpaqueRef:") {
			return
		}
		for _, other := range got {
			r.same(at, row, other, true)
			return
		}
	}
}

// bind remembers which identifiers of the simulator stand for which recorded ones.
func (r *replay) bind(want, got string) {
	wanted, given := identifier.FindAllString(want, -1), identifier.FindAllString(got, -1)
	if len(wanted) != len(given) {
		return
	}
	for n, id := range wanted {
		if _, known := r.bound[id]; !known {
			r.bound[id] = given[n]
		}
	}
}
