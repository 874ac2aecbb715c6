package xapi_test

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// transcripts are real answers; see testdata/README.md.
func transcripts(t testing.TB) map[string]json.RawMessage {
	t.Helper()
	file, err := os.Open("testdata/transcripts.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	answers := map[string]json.RawMessage{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Name     string          `json:"name"`
			Response json.RawMessage `json:"response"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		answers[line.Name] = line.Response
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return answers
}

// replay asks a host that gives the recorded answer.
func replay(t *testing.T, name string, result any) error {
	t.Helper()
	body, ok := transcripts(t)[name]
	if !ok {
		t.Fatalf("no transcript %s", name)
	}
	host := newFakeHost(t, "127.0.0.1:0")
	host.on("x.get_y", verbatim(string(body)))
	return dial(t, configFor(host)).Call(t.Context(), "x.get_y", result)
}

// shared checks that what a struct holds agrees with the record's own JSON, field by field, so that no tag is
// misspelt.
func shared[T any](t *testing.T, name string, pick func(json.RawMessage) json.RawMessage) {
	t.Helper()
	var raw json.RawMessage
	if err := replay(t, name, &raw); err != nil {
		t.Fatal(err)
	}
	raw = pick(raw)
	var record T
	if err := json.Unmarshal(raw, &record); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	again, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	var want, got map[string]any
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(again, &got); err != nil {
		t.Fatal(err)
	}
	for field, value := range got {
		if recorded, ok := want[field]; !ok {
			t.Errorf("%s: the API has no field %s", name, field)
		} else if diff := cmp.Diff(recorded, value); diff != "" {
			t.Errorf("%s: %s (-recorded +decoded)\n%s", name, field, diff)
		}
	}
}

func whole(raw json.RawMessage) json.RawMessage { return raw }

func first(raw json.RawMessage) json.RawMessage {
	var records map[string]json.RawMessage
	if json.Unmarshal(raw, &records) == nil {
		for _, record := range records {
			return record
		}
	}
	return nil
}

func TestRecordsAgreeWithRealAnswers(t *testing.T) {
	shared[xapi.VM](t, "VM.get_record.running", whole)
	shared[xapi.VM](t, "VM.get_record.snapshot", whole)
	shared[xapi.VMMetrics](t, "VM_metrics.get_record.running", whole)
	shared[xapi.VMGuestMetrics](t, "VM_guest_metrics.get_record", whole)
	shared[xapi.VDI](t, "VDI.get_record.snapshot", whole)
	shared[xapi.VBD](t, "VBD.get_record", whole)
	shared[xapi.VIF](t, "VIF.get_record.attached", whole)
	shared[xapi.SR](t, "SR.get_record", whole)
	shared[xapi.PBD](t, "PBD.get_all_records", first)
	shared[xapi.Host](t, "host.get_all_records", first)
	shared[xapi.HostMetrics](t, "host_metrics.get_all_records", first)
	shared[xapi.Pool](t, "pool.get_all_records", first)
	shared[xapi.Network](t, "network.get_all_records", first)
	shared[xapi.Task](t, "task.get_record.success_ref", whole)
	shared[xapi.Task](t, "task.get_record.failure_bad_power_state", whole)
}

func TestRealErrors(t *testing.T) {
	for name, code := range map[string]string{
		"session.login_with_password.bad_password": "SESSION_AUTHENTICATION_FAILED",
		"VM.get_record.handle_invalid":             "HANDLE_INVALID",
		"jsonrpc1.unknown":                         "MESSAGE_METHOD_UNKNOWN",
		"jsonrpc1.bad_login":                       "SESSION_AUTHENTICATION_FAILED",
	} {
		if err := replay(t, name, nil); !xapi.IsCode(err, code) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var text string
	for name, want := range map[string]string{"unicode": "žluťoučký 🐎", "newline": "a\nb\tc", "quotes": `a"b\c<d>&e`} {
		if err := replay(t, "text.get_name_label."+name, &text); err != nil || text != want {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	var batch xapi.EventBatch
	if err := replay(t, "event.from.mod", &batch); err != nil || len(batch.Events) != 1 {
		t.Fatalf("%+v, %v", batch, err)
	}
	var vm xapi.VM
	if err := batch.Events[0].Decode(&vm); err != nil || vm.NameLabel != "evt2" {
		t.Errorf("%q, %v", vm.NameLabel, err)
	}
	if err := replay(t, "event.from.del", &batch); err != nil || batch.Events[0].Operation != xapi.EventDelete {
		t.Errorf("%+v, %v", batch.Events, err)
	}
}

func TestOldHostsLackFieldsAndNewOnesAddSome(t *testing.T) {
	var vm xapi.VM
	if err := json.Unmarshal([]byte(`{"uuid":"u","a_field_of_tomorrow":{"x":[1]},"affinity":"OpaqueRef:NULL"}`), &vm); err != nil {
		t.Fatal(err)
	}
	if vm.UUID != "u" || !vm.Affinity.IsNull() || !vm.ResidentOn.IsNull() || vm.SnapshotTime.IsZero() != true || vm.NVRAM["x"] != "" {
		t.Errorf("%+v", vm)
	}
	if xapi.Ref("OpaqueRef:x").IsNull() {
		t.Error("a reference is null")
	}
}

func TestEnumerationsKeepWhatTheyDoNotKnow(t *testing.T) {
	var vm xapi.VM
	text := `{"power_state":"Hibernated","current_operations":{"OpaqueRef:t":"teleport"},"blocked_operations":{"start_on":"a reason"}}`
	if err := json.Unmarshal([]byte(text), &vm); err != nil {
		t.Fatal(err)
	}
	if vm.PowerState != "Hibernated" || vm.CurrentOperations["OpaqueRef:t"] != "teleport" || vm.BlockedOperations[xapi.VMOperationStartOn] != "a reason" {
		t.Errorf("%+v", vm)
	}
}

func TestFloatsHaveADecimalPoint(t *testing.T) {
	text, err := json.Marshal([]xapi.Float{1, 0.5, 0, 1e21, -3})
	if err != nil || string(text) != "[1.0,0.5,0.0,1000000000000000000000.0,-3.0]" {
		t.Errorf("%s, %v", text, err)
	}
	if _, err := json.Marshal(xapi.Float(0) / xapi.Float(len(strings.TrimSpace(" ")))); err == nil {
		t.Error("NaN was sent")
	}
}
