package xapi_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// taskEvent is an answer of event.from with the task in a state.
func taskEvent(status string, progress float64, result string, errorInfo ...string) func(call) any {
	return value(map[string]any{
		"token": status,
		"events": []any{map[string]any{"class": "task", "operation": "mod", "ref": "OpaqueRef:task", "snapshot": map[string]any{
			"status": status, "progress": progress, "result": result, "error_info": append([]string{}, errorInfo...),
		}}},
		"valid_ref_counts": map[string]int{"task": 1},
	})
}

func noEvents(token string) func(call) any {
	return value(map[string]any{"token": token, "events": []any{}, "valid_ref_counts": map[string]int{}})
}

func hostWithTask(t *testing.T, events ...func(call) any) *fakeHost {
	host := newFakeHost(t, "127.0.0.1:0")
	host.on("Async.VM.clone", value("OpaqueRef:task"))
	host.on("task.destroy", value(""))
	host.on("task.cancel", value(""))
	host.on("event.from", sequence(events...))
	return host
}

func TestRunWaitsForTheStatusAndDecodesTheResult(t *testing.T) {
	// Progress 1 while still pending is what hosts show for a moment: only the status counts.
	host := hostWithTask(t, taskEvent("pending", 0, ""), taskEvent("pending", 0.5, ""), taskEvent("pending", 1, ""),
		taskEvent("success", 1, "<value>OpaqueRef:a&lt;b&amp;c&#32;d</value>"))
	client := dial(t, configFor(host))
	var seen []float64
	ctx := xapi.WithProgress(t.Context(), func(p float64) { seen = append(seen, p) })
	var result string
	if err := client.Run(ctx, "VM.clone", &result, xapi.Ref("OpaqueRef:vm"), "name"); err != nil {
		t.Fatal(err)
	}
	if result != "OpaqueRef:a<b&c d" {
		t.Errorf("result %q", result)
	}
	if !slices.Equal(seen, []float64{0, 0.5, 1}) {
		t.Errorf("progress %v", seen)
	}
	if got := fmt.Sprint(host.last("Async.VM.clone").Params); got != "[OpaqueRef:session OpaqueRef:vm name]" {
		t.Errorf("sent %s", got)
	}
	if got := fmt.Sprint(host.last("task.destroy").Params); got != "[OpaqueRef:session OpaqueRef:task]" {
		t.Errorf("the task was not removed: %s", got)
	}
	if got := fmt.Sprint(host.last("event.from").Params); got != "[OpaqueRef:session [task/OpaqueRef:task] pending 10]" {
		t.Errorf("waited with %s", got)
	}
}

func TestRunFailures(t *testing.T) {
	for name, c := range map[string]struct {
		event func(call) any
		want  string
	}{
		"failure":                   {taskEvent("failure", 1, "", "VM_BAD_POWER_STATE", "OpaqueRef:vm", "halted", "running"), "VM.clone: VM_BAD_POWER_STATE [OpaqueRef:vm, halted, running]"},
		"cancelled":                 {taskEvent("cancelled", 1, "", "TASK_CANCELLED", "OpaqueRef:task"), "VM.clone: TASK_CANCELLED [OpaqueRef:task]"},
		"cancelled without a cause": {taskEvent("cancelled", 1, ""), "VM.clone: TASK_CANCELLED"},
		"failed without a cause":    {taskEvent("failure", 1, ""), "VM.clone: its task failed without a cause"},
		"unknown status":            {taskEvent("dreaming", 1, ""), `VM.clone: its task ended as "dreaming", which is no status known`},
	} {
		host := hostWithTask(t, c.event)
		client := dial(t, configFor(host))
		err := client.Run(t.Context(), "VM.clone", nil)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: %v", name, err)
		}
		if host.count("task.destroy") != 1 {
			t.Errorf("%s: the task was not removed", name)
		}
	}
}

func TestRunFailsBeforeATaskExists(t *testing.T) {
	host := hostWithTask(t)
	host.on("Async.VM.clone", value(failure{"HANDLE_INVALID", "VM", "x"}))
	client := dial(t, configFor(host))
	if err := client.Run(t.Context(), "VM.clone", nil); !xapi.IsCode(err, "HANDLE_INVALID") {
		t.Errorf("got %v", err)
	}
}

func TestRunLooksItselfWhenNoEventComes(t *testing.T) {
	host := hostWithTask(t, noEvents("t1"))
	host.on("task.get_record", sequence(
		value(map[string]any{"status": "pending"}), value(map[string]any{"status": "cancelling"}),
		value(map[string]any{"status": "success", "result": "<value></value>"})))
	client := dial(t, configFor(host))
	result := "unset"
	if err := client.Run(t.Context(), "VM.clone", &result); err != nil || result != "" {
		t.Errorf("%q, %v", result, err)
	}
}

func TestRunWithALostToken(t *testing.T) {
	host := hostWithTask(t, taskEvent("pending", 0, ""), value(failure{"EVENT_FROM_TOKEN_PARSE_FAILURE", "pending"}), taskEvent("success", 1, ""))
	client := dial(t, configFor(host))
	if err := client.Run(t.Context(), "VM.clone", nil); err != nil {
		t.Error(err)
	}
	if got := fmt.Sprint(host.last("event.from").Params); got != "[OpaqueRef:session [task/OpaqueRef:task]  10]" {
		t.Errorf("the last wait was %s", got)
	}
}

func TestRunTaskGone(t *testing.T) {
	gone := hostWithTask(t, noEvents("t"))
	gone.on("task.get_record", value(failure{"HANDLE_INVALID", "task", "OpaqueRef:task"}))
	deleted := hostWithTask(t, value(map[string]any{"token": "t", "events": []any{
		map[string]any{"class": "task", "operation": "del", "ref": "OpaqueRef:task"}}}))
	for name, host := range map[string]*fakeHost{"gone": gone, "deleted": deleted} {
		if err := dial(t, configFor(host)).Run(t.Context(), "VM.clone", nil); !errors.Is(err, xapi.ErrOutcomeUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRunCancelled(t *testing.T) {
	host := hostWithTask(t, hang)
	client := dial(t, configFor(host))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	start := time.Now()
	err := client.Run(ctx, "VM.clone", nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if elapsed := time.Since(start); elapsed > time.Second {
		t.Errorf("Run returned after %v", elapsed)
	}
	if got := fmt.Sprint(host.last("task.cancel").Params); got != "[OpaqueRef:session OpaqueRef:task]" {
		t.Errorf("the task was not cancelled: %s", got)
	}

	host.on("task.cancel", hang)
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	start = time.Now()
	if err := client.Run(ctx, "VM.clone", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if elapsed := time.Since(start); elapsed > 1500*time.Millisecond {
		t.Errorf("with a host that hangs Run returned after %v", elapsed)
	}
}

func TestEventsSendsAFloatAndReadsTheBatch(t *testing.T) {
	host := newFakeHost(t, "127.0.0.1:0")
	host.on("event.from", verbatim(`{"jsonrpc":"2.0","id":1,"result":{"token":"00000000000000000002,00000000000000000000","valid_ref_counts":{"vm":3},
		"events":[{"id":"2920","timestamp":"0.0","class":"vm","operation":"add","ref":"OpaqueRef:a","snapshot":{"uuid":"u","memory_static_max":9007199254740993}},
		{"id":"2921","timestamp":"0.0","class":"vm","operation":"del","ref":"OpaqueRef:b"}]}}`))
	client := dial(t, configFor(host))
	batch, err := client.Events(t.Context(), []string{"vm"}, "", 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if raw := host.last("event.from").raw; !slices.Contains([]string{`["OpaqueRef:session",["vm"],"",2.0]`}, raw[len(`{"jsonrpc":"2.0","method":"event.from","params":`):len(raw)-len(`,"id":2}`)-1]) {
		t.Errorf("sent %s", raw)
	}
	var vm xapi.VM
	if err := batch.Events[0].Decode(&vm); err != nil || vm.UUID != "u" || vm.MemoryStaticMax != 1<<53+1 {
		t.Errorf("decoded %+v, %v", vm, err)
	}
	if err := batch.Events[1].Decode(&vm); err == nil {
		t.Error("a deletion has no record")
	}
	if batch.ValidRefCounts["vm"] != 3 || batch.Token != "00000000000000000002,00000000000000000000" {
		t.Errorf("batch %+v", batch)
	}
}

// TestRunOutlastsARestart has a toolstack that is away while a task goes on, with the token lost besides.
func TestRunOutlastsARestart(t *testing.T) {
	starting := value(failure{"HOST_STILL_BOOTING"})
	host := hostWithTask(t, taskEvent("pending", 0, ""), starting, starting, taskEvent("success", 1, "<value>x</value>"))
	config := configFor(host)
	config.Outage = time.Second
	var result string
	if err := dial(t, config).Run(t.Context(), "VM.clone", &result); err != nil || result != "x" {
		t.Errorf("%q, %v", result, err)
	}
	if got := fmt.Sprint(host.last("event.from").Params); got != "[OpaqueRef:session [task/OpaqueRef:task]  10]" {
		t.Errorf("the last wait was %s", got)
	}
}

func TestRunGivesAPoolUpThatStaysAway(t *testing.T) {
	host := hostWithTask(t, value(failure{"HOST_STILL_BOOTING"}))
	config := configFor(host)
	config.Outage = 50 * time.Millisecond
	if err := dial(t, config).Run(t.Context(), "VM.clone", nil); !errors.Is(err, xapi.ErrOutcomeUnknown) || !xapi.IsTemporary(err) {
		t.Errorf("got %v", err)
	}
}
