package xapisim_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

// play makes the call of a record and tells in what its answer differs.
func (r *replay) play(n int) []string {
	record := &r.records[n]
	switch {
	case record.HTTP != nil:
		return r.playHTTP(record)
	case record.call == nil: // an answer that is no JSON
		return r.playPage(record)
	}
	call := record.call
	r.unrecorded(record)
	r.prepare(call)
	got := r.send(record)
	result := call.answer["result"]
	if call.reads() && result != nil {
		probe := &comparison{replay: r}
		if rows, ok := result.(map[string]any); ok && strings.HasPrefix(call.name, "get_all_records") {
			r.matchRows(call.class, rows, false)
		}
		probe.answers(call, copied(got))
		if missing := r.missing(call, result); len(missing) > 0 {
			r.introduce(missing, nil)
			got = r.send(record)
		}
	}
	c := &comparison{replay: r}
	c.answers(call, got)
	if ref, ok := result.(string); ok && !call.reads() && r.known[ref] == "" && opaque.MatchString(ref) {
		delete(r.made, ref) // the simulator has not made it
		r.introduce(map[string]string{ref: r.resultClass(call)}, nil)
	}
	r.settle(n)
	return c.join()
}

func (r *replay) resultClass(call *recordedCall) string {
	if call.async {
		return "task"
	}
	return call.message.Result.Name
}

func copied(v map[string]any) map[string]any {
	text, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	var out map[string]any
	_ = decodeJSON(text, &out)
	return out
}

// prepare brings the pool into the state in which the call can have given its answer.
func (r *replay) prepare(call *recordedCall) {
	code, params := failure(call.answer)
	bogus := map[string]bool{}
	if code == "HANDLE_INVALID" || code == "SESSION_INVALID" {
		bogus[fmt.Sprint(params[len(params)-1])] = true
	}
	if call.message == nil || len(call.params) == 0 {
		return
	}
	values := call.params
	if !call.message.NoSession {
		if session := fmt.Sprint(values[0]); r.known[session] == "" && !bogus[session] && opaque.MatchString(session) {
			r.bind(session, r.c.text("session.login_with_password", "root", "xenroot", "1.0", "replay"))
		}
		values = values[1:]
	}
	unknown := map[string]string{}
	for n, param := range call.message.Params {
		if n >= len(values) {
			break
		}
		for _, ref := range r.paramRefs(param.Type, values[n]) {
			if !bogus[ref.ref] && r.known[ref.ref] == "" {
				unknown[ref.ref] = ref.class
			}
		}
	}
	r.introduce(unknown, stateBefore(call))
	if rows, ok := call.answer["result"].(map[string]any); ok && call.name == "get_all_records" {
		r.forget(call.class, rows)
	}
	if call.name == "destroy" || call.name == "forget" {
		r.destroyed[fmt.Sprint(values[0])] = true
	}
}

func (r *replay) paramRefs(t datamodel.Type, v any) []reference {
	class := r.model.Classes[t.Name]
	if t.Kind != datamodel.Record || class == nil {
		return refsIn(t, v)
	}
	var out []reference
	for name, member := range asMap(v) {
		if f := class.Field(name); f != nil {
			out = append(out, refsIn(f.Type, member)...)
		}
	}
	return out
}

// forget takes away what the record no longer shows, though no call that is in it has destroyed it.
func (r *replay) forget(class string, rows map[string]any) {
	for want, got := range maps.Clone(r.known) {
		if _, shown := rows[want]; !shown && strings.HasPrefix(want, "OpaqueRef:") && !r.destroyed[want] {
			r.pool.Drop(class, got)
		}
	}
}

// missing are the objects that an answer shows, and that neither an earlier answer nor the pool has.
func (r *replay) missing(call *recordedCall, result any) map[string]string {
	out := map[string]string{}
	add := func(refs []reference) {
		for _, ref := range refs {
			if r.known[ref.ref] == "" && !r.made[ref.ref] {
				out[ref.ref] = ref.class
			}
		}
	}
	switch {
	case call.method() == "event.from":
		for _, e := range eventsOf(asMap(result)) {
			if e["operation"] != "del" {
				add([]reference{{classOf(r.model, fmt.Sprint(e["class"])), fmt.Sprint(e["ref"])}})
			}
		}
	case strings.HasPrefix(call.name, "get_all_records"):
		for ref, row := range asMap(result) {
			add([]reference{{call.class, ref}})
			add(r.paramRefs(datamodel.Type{Kind: datamodel.Record, Name: call.class}, row))
		}
	case call.message != nil:
		add(r.paramRefs(call.message.Result, result))
	}
	return out
}

// paths are those of the records whose names tell another one than /jsonrpc.
var paths = map[string]string{"path.slash": "/", "path.json": "/json", "path.RPC2_with_json": "/RPC2"}

func (r *replay) post(record *recorded) *http.Response {
	request := asMap(r.translate(map[string]any(record.Request)))
	if params, ok := request["params"].([]any); ok && request["method"] == "event.from" && len(params) == 4 {
		switch params[3].(type) { // nothing is to come that would be worth the record's waits
		case json.Number:
			params[3] = 0.02
		case string:
			params[3] = "0.02"
		}
	}
	body, err := json.Marshal(request)
	r.check(err)
	path := paths[record.Name]
	if path == "" {
		path = "/jsonrpc"
	}
	response, err := r.c.http.Post(strings.TrimSuffix(r.c.url, "/jsonrpc")+path, "application/json", strings.NewReader(string(body)))
	r.check(err)
	return response
}

func (r *replay) send(record *recorded) map[string]any {
	response := r.post(record)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	r.check(err)
	var got map[string]any
	if err := decodeJSON(text, &got); err != nil {
		return map[string]any{"text": string(text)}
	}
	return got
}

// unrecorded makes the calls that must have been made before a record though they are not in it.
func (r *replay) unrecorded(record *recorded) {
	for _, hidden := range unrecorded[record.Seq] {
		args, _ := r.translate(hidden[1:]).([]any)
		r.c.call(fmt.Sprint(hidden[0]), args...)
		if hidden[0] == "VM.start" {
			r.awaitAgent(fmt.Sprint(args[0]))
		}
	}
}

func (r *replay) playPage(record *recorded) []string {
	response := r.post(record)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	r.check(err)
	var want any
	r.check(decodeJSON(record.Response, &want))
	c := &comparison{replay: r}
	c.same("status", fmt.Sprint(record.Status), fmt.Sprint(response.StatusCode))
	c.same("page", want, string(text))
	return c.join()
}

// settle waits for what the recorded host had done by the next call: tasks, and the agents of started VMs.
func (r *replay) settle(n int) {
	call := r.records[n].call
	task, _ := call.answer["result"].(string)
	if call.async && task != "" && !r.pendingNext(n, task) {
		eventually(r.t, "the end of "+call.method(), func() bool { return r.c.text("task.get_status", r.known[task]) != "pending" })
	}
	if strings.HasPrefix(call.method(), "VM.start") || strings.HasPrefix(call.method(), "VM.resume") {
		r.awaitAgent(r.known[fmt.Sprint(call.params[1])])
	}
}

func (r *replay) awaitAgent(vm string) {
	eventually(r.t, "the agent of a VM", func() bool {
		state, err := r.c.try("VM.get_power_state", vm)
		if err != nil || state != "Running" && state != "Paused" {
			return true
		}
		metrics, err := r.c.try("VM_guest_metrics.get_PV_drivers_detected", r.c.text("VM.get_guest_metrics", vm))
		return err == nil && metrics == true
	})
}

// pendingNext tells whether the record still shows a task at work.
func (r *replay) pendingNext(n int, task string) bool {
	return slices.ContainsFunc(r.records[n+1:min(n+3, len(r.records))], func(next recorded) bool {
		return next.call != nil && len(next.call.params) > 1 && next.call.params[1] == task &&
			asMap(next.call.answer["result"])["status"] == "pending"
	})
}
