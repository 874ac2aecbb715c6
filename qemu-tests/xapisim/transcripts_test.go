package xapisim_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// maxUnreplayable bounds how many records may be left out.
const maxUnreplayable = 59

// TestTranscripts makes all calls that were recorded with a running xapi, in their order, and compares whole answers:
// values, members, the parameters of errors. References, uuids, dates, generated addresses and event tokens are mapped.
// The records that differ, and those that cannot be replayed, stand with their reasons in testdata/transcripts.txt; a
// difference that is not listed fails, and so does a listed one that has gone.
func TestTranscripts(t *testing.T) {
	records := readTranscripts(t)
	listed := readVerdicts(t)
	r := newReplay(t, records)
	r.start()
	counts := map[string]int{}
	for n := range records {
		record := &records[n]
		at := fmt.Sprintf("%d %s", record.Seq, record.Name)
		if listed[record.Seq].verdict == "unreplayable" {
			counts["unreplayable"]++
			continue
		}
		differences := r.play(n)
		verdict := "equal"
		if len(differences) > 0 {
			verdict = "different"
		}
		counts[verdict]++
		switch _, known := listed[record.Seq]; {
		case verdict == "different" && !known:
			t.Errorf("%s: %s", at, shorten(strings.Join(differences, "\n\t"), 1500))
		case verdict == "equal" && known:
			t.Errorf("%s: is equal again: take it out of testdata/transcripts.txt", at)
		}
		delete(listed, record.Seq)
	}
	t.Logf("%d records: %d equal, %d different, %d not replayable", len(records), counts["equal"], counts["different"], counts["unreplayable"])
	if len(records) != 546 || counts["unreplayable"] > maxUnreplayable {
		t.Errorf("%d records, of which %d are not replayed", len(records), counts["unreplayable"])
	}
}

func shorten(text string, limit int) string {
	if len(text) > limit {
		return strings.ToValidUTF8(text[:limit], "") + "…"
	}
	return text
}

// recorded is a line of the transcripts.
type recorded struct {
	Seq       int             `json:"seq"`
	Name      string          `json:"name"`
	Request   map[string]any  `json:"request"`
	HTTP      *recordedHTTP   `json:"http"`
	Status    int             `json:"status"`
	Response  json.RawMessage `json:"response"`
	Exception string          `json:"exception"`

	call *recordedCall
}

type recordedHTTP struct {
	Line       string `json:"http"`
	Body       string `json:"body_raw"`
	BodyLength int    `json:"body_len"`
}

// recordedCall is a call of the XenAPI with what the data model says of it.
type recordedCall struct {
	class, name string // without Async.
	async       bool
	message     *datamodel.Message // nil when the data model has none of that name
	params      []any
	answer      map[string]any
}

func (c *recordedCall) method() string { return c.class + "." + c.name }

// reads tells whether the call changes nothing.
func (c *recordedCall) reads() bool {
	return !c.async && (strings.HasPrefix(c.name, "get_") || c.method() == "event.from")
}

// failure gives the error of an answer.
func failure(answer map[string]any) (code string, params []any) {
	switch e := answer["error"].(type) {
	case map[string]any:
		params, _ = e["data"].([]any)
		return fmt.Sprint(e["message"]), params
	case []any:
		return fmt.Sprint(e[0]), e[1:]
	}
	return "", nil
}

func readTranscripts(t *testing.T) []recorded {
	t.Helper()
	file, err := os.Open("testdata/transcripts.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	model, err := datamodel.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	var out []recorded
	lines := bufio.NewScanner(unpacked)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r recorded
		if err := decodeJSON(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		r.call = callOf(model, &r)
		out = append(out, r)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func callOf(model *datamodel.Model, r *recorded) *recordedCall {
	method, _ := r.Request["method"].(string)
	c := &recordedCall{}
	if method == "" || decodeJSON(r.Response, &c.answer) != nil {
		return nil
	}
	method, c.async = strings.CutPrefix(method, "Async.")
	c.class, c.name, _ = strings.Cut(method, ".")
	c.params, _ = r.Request["params"].([]any)
	if class := model.Classes[c.class]; class != nil {
		c.message = class.Messages[c.name]
	}
	return c
}

func decodeJSON(text []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return decoder.Decode(into)
}

type verdict struct{ verdict, reason string }

// readVerdicts reads lines of "verdict, number, name: reason".
func readVerdicts(t *testing.T) map[int]verdict {
	t.Helper()
	text, err := os.ReadFile("testdata/transcripts.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := map[int]verdict{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		head, reason, ok := strings.Cut(line, ": ")
		fields := strings.Fields(head)
		if !ok || len(fields) != 3 || fields[0] != "different" && fields[0] != "unreplayable" {
			t.Fatalf("testdata/transcripts.txt: %q", line)
		}
		first, last, isRange := strings.Cut(fields[1], "-")
		from, err := strconv.Atoi(first)
		to := from
		if isRange && err == nil {
			to, err = strconv.Atoi(last)
		}
		if err != nil {
			t.Fatal(err)
		}
		for seq := from; seq <= to; seq++ {
			if _, twice := out[seq]; twice {
				t.Fatalf("testdata/transcripts.txt: %q: %d stands there already", line, seq)
			}
			out[seq] = verdict{fields[0], reason}
		}
	}
	return out
}

// newReplay starts a pool without storage: the records make it.
func newReplay(t *testing.T, records []recorded) *replay {
	t.Helper()
	pool := newPool(t, xapisim.Config{SRs: []xapisim.SRConfig{}, GuestDelay: time.Millisecond, GuestMetricsDelay: time.Millisecond})
	model, err := datamodel.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, pool)
	c.http.Timeout = 20 * time.Second // a call that waits for ever is a difference, too
	return &replay{
		t: t, pool: pool, c: c, model: model, records: records,
		known: map[string]string{nullRef: nullRef}, taken: map[string]bool{}, first: firstRecords(model, records), made: madeBy(records),
		destroyed: map[string]bool{},
	}
}
