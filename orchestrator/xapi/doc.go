// Package xapi is a client of the XenAPI: JSON-RPC 2.0 over HTTPS, as spoken by XenServer 7 to 8 and
// XCP-ng 8.x.
//
// It holds one session to a pool's coordinator and hides what is accidental in that: which host is the
// coordinator today, whether the session has expired, whether a kept connection has been cut. A coordinator that
// goes away, if only by answering nothing any more (Config.Silence), is looked for among the configured addresses and the members
// that it told of. It does not
// hide what matters: a call that may or may not have been carried out ends in ErrOutcomeUnknown, and an error
// of the API is an *Error with the code that the API gave. Ensure, Make and CopyVM are for callers that know how to see whether it was:
// they look, and call again if it was not.
//
//	     Call, Events                        Run, Import, ImportDisk, ExportDisk
//	         │                                │  Async.<method>, or an HTTP handler → task → event.from → result (XML)
//	         ▼                                ▼
//	┌─ do: repeat (table in repeat.go), log in again, fail over ──────┐
//	│    roundTrip: at most 20 at once, limits, watch for silence     │
//	└────┬────────────────────────────────────────────────────────────┘
//	     ▼ TLS, leaf certificate pinned by SHA-256, or told by a coordinator that is
//	host A (coordinator)   host B ──HOST_IS_SLAVE──▶ host A
//
// Packages above take the small interface API, so that they can be tested without a server. The records of
// records.go are generated from the data model (internal/records); fields that an old host lacks stay zero,
// fields that a new one adds are ignored, and a value that an enumeration does not list is kept as it came.
//
// The facts behind every rule (status codes, shapes, traps) are those of xapi-facts and xapi-observed; comments
// name the section.
package xapi

//go:generate go run ./internal/records
