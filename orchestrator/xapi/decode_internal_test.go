package xapi

import (
	"encoding/xml"
	"errors"
	"strings"
	"testing"
)

func TestParseTaskResult(t *testing.T) {
	for text, want := range map[string]string{
		"":                                         "",
		"<value></value>":                          "",
		"<value/>":                                 "",
		"<value>OpaqueRef:x</value>":               "OpaqueRef:x",
		"<value>5</value>":                         "5",
		"<value>a&lt;b&amp;&quot;</value>":         `a<b&"`,
		"<value> two  spaces </value>":             " two  spaces ",
		"<value><string>x y</string></value>":      "x y",
		"<value>\n<string>x</string>\n</value>":    "x",
		"<value><i4>9007199254740993</i4></value>": "9007199254740993",
	} {
		if got, err := parseTaskResult(text); err != nil || got != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"OpaqueRef:x", "<value>", "<value>x", "<name>x</name>", "<value>&nosuch;</value>",
		"<value><array><data><value>a</value></data></array></value>", "<value><struct/></value>",
		"<value><string>a</string><string>b</string></value>", "<value>a<string>b</string></value>",
	} {
		if got, err := parseTaskResult(text); err == nil {
			t.Errorf("%s was read as %q", text, got)
		}
	}
	if _, err := parseTaskResult(strings.Repeat("x", taskResultLimit+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an oversized result gave %v", err)
	}
}

// FuzzTaskResult: whatever text a task returns can be read back from the XML that carries it, and no XML panics.
func FuzzTaskResult(f *testing.F) {
	for _, seed := range []string{"", "<value></value>", "<value>OpaqueRef:x</value>", "<value>&lt;</value>", "<value><array><data/></array></value>", "žluťoučký 🐎"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseTaskResult(text)
		if err == nil && text != "" && !strings.Contains(text, "<") {
			t.Fatalf("%q was read as %q", text, got)
		}
		var escaped strings.Builder
		if err := xml.EscapeText(&escaped, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsRune(escaped.String(), '\uFFFD') {
			return // not expressible in XML
		}
		if back, err := parseTaskResult("<value>" + escaped.String() + "</value>"); err != nil || back != text {
			t.Fatalf("%q came back as %q, %v", text, back, err)
		}
	})
}

// FuzzTaskRefs: what names references gives at least one, and no XML panics.
func FuzzTaskRefs(f *testing.F) {
	for _, text := range []string{
		"<value><array><data><value>OpaqueRef:a</value><value><string>OpaqueRef:b</string></value></data></array></value>",
		"<value><array><data/></array></value>", "<value><array><data><value><struct/></value></data></array></value>", "<value>OpaqueRef:a</value>", "",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if refs, err := parseTaskRefs(text); (err == nil) != (len(refs) > 0) {
			t.Errorf("%q gives %v, %v", text, refs, err)
		}
	})
}

// FuzzReply: a reply is a result, an error of the API with a code, or malformed; never a panic, never nothing.
func FuzzReply(f *testing.F) {
	for _, seed := range []string{
		`{"jsonrpc":"2.0","result":"","id":1}`,
		`{"jsonrpc":"2.0","error":{"code":1,"message":"HANDLE_INVALID","data":["VM","x"]},"id":1}`,
		`{"result":null,"error":["HOST_STILL_BOOTING"],"id":0}`,
		`{"result":{"virtual_size":"5","x":NaN,"snapshot_time":"20250319T04:16:24Z"}}`, `{"result":{"a":{"VCPUs_CPU":{"0":"7"}}}}`,
		`{"error":[]}`, `{"error":{"message":"X","data":7}}`, `null`, `<html>`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		raw, err := decodeReply("VM.start", body)
		var failure *Error
		switch {
		case err == nil && len(raw) == 0:
			t.Fatalf("%q gave nothing", body)
		case err != nil && !errors.Is(err, ErrMalformed) && !errors.As(err, &failure):
			t.Fatalf("%q gave %v", body, err)
		}
		if err == nil {
			for _, result := range []any{
				new(VM), new(EventBatch), new(int64), new(float64), new(map[Ref]VDI), new(map[Ref]Host), new(VMMetrics), new(Task), new([]Message), new(any),
			} {
				if err := decodeResult("VM.start", raw, result); err != nil && !errors.Is(err, ErrMalformed) {
					t.Fatalf("%q as %T gave %v", raw, result, err)
				}
			}
		}
	})
}
