package xapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
)

const (
	// requestLimit is the largest request body that xapi takes (xapi-facts §1.1).
	requestLimit = 300 << 10
	// replyLimit bounds a reply. get_all_records of a pool with ten thousand VMs stays below it.
	replyLimit = 64 << 20
	// pageLimit is how much of an error page is read, excerptLimit how much of it is shown.
	pageLimit    = 16 << 10
	excerptLimit = 400
)

// request is the envelope of a call. Parameters are positional: xapi takes named ones as one argument.
type request struct {
	Version string `json:"jsonrpc"`
	Method  string `json:"method"`
	Params  []any  `json:"params"`
	ID      uint64 `json:"id"`
}

func encodeRequest(method string, params []any, id uint64) ([]byte, error) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(request{Version: "2.0", Method: method, Params: params, ID: id}); err != nil {
		return nil, fmt.Errorf("%s: encode the arguments: %w", method, err)
	}
	if body.Len() > requestLimit {
		return nil, fmt.Errorf("%s: the request has %d bytes, the API takes at most %d: %w", method, body.Len(), requestLimit, ErrTooLarge)
	}
	return body.Bytes(), nil
}

// newPost is the HTTP request of a call.
func newPost(ctx context.Context, address, method string, params []any, id uint64) (*http.Request, error) {
	body, err := encodeRequest(method, params, id)
	if err != nil {
		return nil, err
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+"/jsonrpc", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	post.Header.Set("Content-Type", "application/json")
	return post, nil
}

// decodeReply takes an envelope apart: the result, or the API's error as an *Error. An error comes as an
// object, or as a bare array when it was raised before dispatch; then its id is not the request's, so that the
// id is not looked at (xapi-facts §1.2). On one connection a reply always belongs to the last request.
func decodeReply(method string, body []byte) (json.RawMessage, error) {
	var envelope struct {
		Result json.RawMessage `json:"result"`
		Error  json.RawMessage `json:"error"`
	}
	err := json.Unmarshal(body, &envelope)
	if err != nil {
		if plain, ok := withoutNonFinite(body); ok {
			err = json.Unmarshal(plain, &envelope)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w; it begins %q", method, ErrMalformed, err, excerpt(body))
	}
	if present(envelope.Error) {
		failure, err := decodeError(envelope.Error)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", method, ErrMalformed, err)
		}
		failure.Method = method
		return nil, failure
	}
	if !present(envelope.Result) {
		return nil, fmt.Errorf("%s: %w: neither a result nor an error", method, ErrMalformed)
	}
	return envelope.Result, nil
}

func present(raw json.RawMessage) bool { return len(raw) > 0 && !bytes.Equal(raw, []byte("null")) }

func decodeError(raw json.RawMessage) (*Error, error) {
	if raw[0] == '[' {
		var words []any
		if err := json.Unmarshal(raw, &words); err != nil {
			return nil, fmt.Errorf("error member: %w", err)
		}
		if len(words) == 0 {
			return nil, fmt.Errorf("the error member is an empty array")
		}
		texts := texts(words)
		return &Error{Code: texts[0], Params: texts[1:]}, nil
	}
	var object struct {
		Message string          `json:"message"`
		Data    json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		return nil, fmt.Errorf("error member: %w", err)
	}
	if object.Message == "" {
		return nil, fmt.Errorf("the error member has no code")
	}
	failure := &Error{Code: object.Message}
	if present(object.Data) {
		var words []any
		if err := json.Unmarshal(object.Data, &words); err != nil {
			return nil, fmt.Errorf("data of the error member: %w", err)
		}
		failure.Params = texts(words)
	}
	return failure, nil
}

// texts renders parameters, which are strings by specification.
func texts(words []any) []string {
	texts := make([]string, len(words))
	for i, word := range words {
		texts[i] = fmt.Sprint(word)
	}
	return texts
}

// readReply reads a body up to replyLimit; a declared length above it is refused before anything is read.
func readReply(body io.Reader, declared int64) ([]byte, error) {
	if declared > replyLimit {
		return nil, fmt.Errorf("the reply has %d bytes, at most %d are read: %w", declared, replyLimit, ErrTooLarge)
	}
	data, err := io.ReadAll(io.LimitReader(body, replyLimit+1))
	if err != nil {
		return nil, err
	}
	if len(data) > replyLimit {
		return nil, fmt.Errorf("the reply has more than %d bytes: %w", replyLimit, ErrTooLarge)
	}
	return data, nil
}

var markup = regexp.MustCompile(`<[^>]*>`)

// pageText is the readable part of an HTML error page.
func pageText(page []byte) string {
	return excerpt([]byte(strings.Join(strings.Fields(markup.ReplaceAllString(string(page), " ")), " ")))
}

func excerpt(text []byte) string {
	if len(text) > excerptLimit {
		return strings.ToValidUTF8(string(text[:excerptLimit]), "") + "…"
	}
	return string(text)
}
