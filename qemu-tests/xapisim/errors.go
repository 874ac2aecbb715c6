package xapisim

import (
	"errors"
	"strings"
)

// Error is an API error: a code of the data model and its parameters, as xapi would send them.
type Error struct {
	Code   string
	Params []string
}

func (e *Error) Error() string { return e.Code + " [" + strings.Join(e.Params, ", ") + "]" }

func fail(code string, params ...string) *Error {
	if params == nil {
		params = []string{}
	}
	return &Error{Code: code, Params: params}
}

// undispatched is an API error that is raised before a call is dispatched. Since 2024 xapi answers it in a shape of its
// own: that of version 2 with an id of 0 and the error as a bare array, whatever the request was (xapi-facts §1.2).
type undispatched struct{ cause *Error }

func (e undispatched) Error() string { return e.cause.Error() }

// internal is xapi's answer to anything unexpected (xapi-facts §1.4).
func internal(text string) *Error { return fail("INTERNAL_ERROR", text) }

// asError makes an API error of whatever a call returned.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return internal(err.Error())
}

func isCode(err error, code string) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == code
}
