package xapisim

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// xmlCall is a methodCall of XML-RPC. Values without a type are strings.
type xmlCall struct {
	XMLName xml.Name   `xml:"methodCall"`
	Method  string     `xml:"methodName"`
	Params  []xmlValue `xml:"params>param>value"`
}

type xmlValue struct {
	Text    string      `xml:",chardata"`
	String  *string     `xml:"string"`
	Int     *string     `xml:"int"`
	I4      *string     `xml:"i4"`
	Double  *string     `xml:"double"`
	Boolean *string     `xml:"boolean"`
	Date    *string     `xml:"dateTime.iso8601"`
	Array   *[]xmlValue `xml:"array>data>value"`
	Struct  *[]struct {
		Name  string   `xml:"name"`
		Value xmlValue `xml:"value"`
	} `xml:"struct>member"`
}

// json gives the value in the form that arguments of JSON-RPC have: both dialects share the decoder.
func (v xmlValue) json() any {
	switch {
	case v.String != nil:
		return *v.String
	case v.Int != nil:
		return json.Number(*v.Int)
	case v.I4 != nil:
		return json.Number(*v.I4)
	case v.Double != nil:
		return json.Number(*v.Double)
	case v.Boolean != nil:
		return *v.Boolean == "1" || *v.Boolean == "true"
	case v.Date != nil:
		return *v.Date
	case v.Array != nil:
		out := []any{}
		for _, item := range *v.Array {
			out = append(out, item.json())
		}
		return out
	case v.Struct != nil:
		out := map[string]any{}
		for _, member := range *v.Struct {
			out[member.Name] = member.Value.json()
		}
		return out
	default:
		return v.Text
	}
}

// xmlrpc answers a call of XML-RPC, which every POST is that no other handler takes (xapi-facts §1.1, §1.3).
func (p *Pool) xmlrpc(h *host, w http.ResponseWriter, r *http.Request) {
	var request xmlCall
	if err := xml.NewDecoder(io.LimitReader(r.Body, maxBody)).Decode(&request); err != nil || request.Method == "" {
		page(w, http.StatusInternalServerError, xmlError(err))
		return
	}
	e := envelope{version: 2, method: request.Method}
	for _, param := range request.Params {
		e.params = append(e.params, param.json())
	}
	result, err := p.carry(h, r, e)
	w.Header().Set("Content-Type", "text/xml")
	w.Header().Set("Access-Control-Allow-Origin", "*")
	_, _ = io.WriteString(w, xmlAnswer(result, err)) // a client that has gone is no concern of the server
}

func xmlError(err error) string {
	var syntax *xml.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Sprintf("Xmlm.Error(%d:1, %q)", syntax.Line, "expected root element")
	}
	return `Xmlm.Error(1:1, "expected root element")`
}

func xmlAnswer(result any, err error) string {
	member := func(name, value string) string { return "<member><name>" + name + "</name>" + value + "</member>" }
	var members string
	if err != nil {
		e := asError(err)
		members = member("Status", "<value>Failure</value>") + member("ErrorDescription", taskResult(append([]string{e.Code}, e.Params...)))
	} else {
		members = member("Status", "<value>Success</value>") + member("Value", taskResult(result))
	}
	return strings.Join([]string{
		`<?xml version="1.0"?><methodResponse><params><param><value><struct>`, members, `</struct></value></param></params></methodResponse>`,
	}, "")
}
