package xapisim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// envelope is a parsed JSON-RPC request (xapi-facts §1.2).
type envelope struct {
	version int // 1 or 2
	method  string
	params  []any
	id      any // json.Number or string, echoed
}

// parseEnvelope reads a request. Any error is answered with HTTP 500 and a page: xapi sends no JSON for what it cannot
// parse.
func parseEnvelope(body []byte) (envelope, error) {
	if loneSurrogate(body) {
		return envelope{}, errors.New("Yojson__Common.Json_error(\"Missing escape sequence representing low surrogate\")")
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return envelope{}, errors.New("Yojson__Common.Json_error(\"Blank input data\")")
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return envelope{}, fmt.Errorf("Yojson__Common.Json_error(%q)", err.Error())
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return envelope{}, errors.New("Yojson__Common.Json_error(\"Junk after end of JSON value\")")
	}
	if err := checkNumbers(v); err != nil {
		return envelope{}, err
	}
	members, ok := v.(map[string]any)
	if !ok {
		return envelope{}, malformed("Invalid request body")
	}
	e := envelope{version: 1}
	if version, given := members["jsonrpc"]; given {
		if version != "2.0" {
			return envelope{}, malformed("Invalid field 'jsonrpc' in request body")
		}
		e.version = 2
	}
	if e.method, ok = members["method"].(string); !ok {
		return envelope{}, malformed("Invalid field 'method' in request body")
	}
	switch id := members["id"].(type) {
	case string:
		e.id = id
	case json.Number:
		if _, err := id.Int64(); err != nil {
			return envelope{}, malformed("Invalid field 'id' in request body")
		}
		e.id = id
	default:
		return envelope{}, malformed("Invalid field 'id' in request body")
	}
	switch params := members["params"].(type) {
	case []any:
		e.params = params
	case map[string]any:
		if e.version == 1 {
			return envelope{}, malformed("Invalid field 'params' in request body")
		}
		e.params = []any{params} // one positional argument, useless
	case nil:
		if e.version == 1 {
			return envelope{}, malformed("Invalid field 'params' in request body")
		}
	default:
		return envelope{}, malformed("Invalid field 'params' in request body")
	}
	return e, nil
}

func malformed(text string) error { return fmt.Errorf("Jsonrpc.Malformed_method_request(%q)", text) }

// checkNumbers refuses integers beyond 64 bits, which xapi's parser does not take.
func checkNumbers(v any) error {
	switch v := v.(type) {
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			return nil
		}
		if _, err := strconv.ParseInt(v.String(), 10, 64); err != nil {
			return errors.New("Failure(\"Int64.of_string\")")
		}
	case []any:
		for _, item := range v {
			if err := checkNumbers(item); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, item := range v {
			if err := checkNumbers(item); err != nil {
				return err
			}
		}
	}
	return nil
}

var (
	escapedBackslash = regexp.MustCompile(`\\\\`)
	surrogatePair    = regexp.MustCompile(`\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}`)
	surrogate        = regexp.MustCompile(`\\u[dD][89a-fA-F][0-9a-fA-F]{2}`)
)

func loneSurrogate(body []byte) bool {
	if !bytes.Contains(body, []byte(`\u`)) {
		return false
	}
	body = escapedBackslash.ReplaceAll(body, nil)
	return surrogate.Match(surrogatePair.ReplaceAll(body, nil))
}

// reply builds the answer to a request: a result or an API error, in the shape of the request's version.
func (e envelope) reply(result any, err error) ([]byte, error) {
	var body any
	early, undispatched := errors.AsType[undispatched](err)
	switch {
	case undispatched:
		body = map[string]any{"jsonrpc": "2.0", "error": append([]string{early.cause.Code}, early.cause.Params...), "id": 0}
	case err != nil && e.version == 2:
		apiErr := asError(err)
		body = map[string]any{
			"jsonrpc": "2.0", "id": e.id,
			"error": map[string]any{"code": 1, "message": apiErr.Code, "data": apiErr.Params},
		}
	case err != nil:
		apiErr := asError(err)
		body = map[string]any{"result": nil, "error": append([]string{apiErr.Code}, apiErr.Params...), "id": e.id}
	case e.version == 2:
		body = map[string]any{"jsonrpc": "2.0", "result": wire(result), "id": e.id}
	default:
		body = map[string]any{"result": wire(result), "error": nil, "id": e.id}
	}
	return json.Marshal(body)
}
