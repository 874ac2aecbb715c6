package xapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// decodeResult stores a result where the caller wants it; nil discards it. Numbers that land in an 'any' stay
// json.Number, because 64-bit integers do not fit a float64. Integers and floats may also come as text, which is what
// XML-RPC makes of them and what the API takes (xapi-facts §2). After an error the result is undefined.
func decodeResult(method string, raw json.RawMessage, result any) error {
	if result == nil {
		return nil
	}
	err := decodeJSON(raw, result)
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) && mismatch.Value == "string" && isNumber(mismatch.Type.Kind()) {
		if plain, ok := unquoteNumbers(raw, reflect.TypeOf(result)); ok {
			err = decodeJSON(plain, result)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w: decode the result: %w", method, ErrMalformed, err)
	}
	return nil
}

func decodeJSON(raw []byte, result any) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	return decoder.Decode(result)
}

func isNumber(kind reflect.Kind) bool { return kind == reflect.Int64 || kind == reflect.Float64 }

// unquoteNumbers rewrites a value in which text stands where a type wants numbers.
func unquoteNumbers(raw []byte, wanted reflect.Type) ([]byte, bool) {
	var value any
	if err := decodeJSON(raw, &value); err != nil {
		return nil, false
	}
	plain, err := json.Marshal(unquoted(value, wanted))
	return plain, err == nil
}

func unquoted(value any, wanted reflect.Type) any {
	if wanted.Kind() == reflect.Pointer {
		return unquoted(value, wanted.Elem())
	}
	switch value := value.(type) {
	case string:
		if wanted.Kind() == reflect.Int64 {
			if n, err := strconv.ParseInt(value, 10, 64); err == nil {
				return n
			}
		}
		if wanted.Kind() == reflect.Float64 {
			if f, err := strconv.ParseFloat(value, 64); err == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
				return f
			}
		}
	case []any:
		if wanted.Kind() == reflect.Slice {
			for i := range value {
				value[i] = unquoted(value[i], wanted.Elem())
			}
		}
	case map[string]any:
		switch wanted.Kind() {
		case reflect.Map:
			for key := range value {
				value[key] = unquoted(value[key], wanted.Elem())
			}
		case reflect.Struct:
			for i := range wanted.NumField() {
				field := wanted.Field(i)
				name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
				if member, ok := value[name]; ok {
					value[name] = unquoted(member, field.Type)
				}
			}
		}
	}
	return value
}

// nonFinite are the numbers that JSON has no form for, as OCaml's printer writes them (Yojson, used by ocaml-rpc's
// src/lib/jsonrpc.ml).
var nonFinite = [][]byte{[]byte("NaN"), []byte("-Infinity"), []byte("Infinity")}

// withoutNonFinite puts zero for NaN and the infinities outside of strings: no value is better known. ok tells whether
// there was any.
func withoutNonFinite(body []byte) (plain []byte, ok bool) {
	inString := false
	for i := 0; i < len(body); {
		if !inString {
			if n := nonFiniteLength(body[i:]); n > 0 {
				plain, ok, i = append(plain, "0.0"...), true, i+n
				continue
			}
		}
		switch {
		case body[i] == '"':
			inString = !inString
		case inString && body[i] == '\\' && i+1 < len(body):
			plain = append(plain, body[i])
			i++
		}
		plain = append(plain, body[i])
		i++
	}
	return plain, ok
}

func nonFiniteLength(text []byte) int {
	for _, form := range nonFinite {
		if bytes.HasPrefix(text, form) {
			return len(form)
		}
	}
	return 0
}
