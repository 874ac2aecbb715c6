package xapi

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Codes of the API that callers of this package decide on (xapi-facts §1.4 to §1.5, §6).
const (
	codeSessionInvalid       = "SESSION_INVALID"
	codeHostIsSlave          = "HOST_IS_SLAVE"
	codeAuthenticationFailed = "SESSION_AUTHENTICATION_FAILED"
	codeTokenParseFailure    = "EVENT_FROM_TOKEN_PARSE_FAILURE"
	codeEventsLost           = "EVENTS_LOST"
	codeHandleInvalid        = "HANDLE_INVALID"
	codeDuplicateKey         = "MAP_DUPLICATE_KEY"
	codeVDIInUse             = "VDI_IN_USE"
	codeOtherOperation       = "OTHER_OPERATION_IN_PROGRESS"
	codeTaskCancelled        = "TASK_CANCELLED"
	codeStillBooting         = "HOST_STILL_BOOTING"
	codeNoManagementIP       = "HOST_HAS_NO_MANAGEMENT_IP"
	codeCannotTalkBack       = "HOST_MASTER_CANNOT_TALK_BACK"
)

// awayCodes are the errors of a host that takes no calls for now, and has done nothing: it starts, or is a member that has lost
// its coordinator (xapi-facts §1.5).
var awayCodes = []string{codeStillBooting, codeNoManagementIP, codeCannotTalkBack}

var (
	// ErrAuthentication says that the pool refused the user name or the password.
	ErrAuthentication = errors.New("the pool refused the user name or the password")
	// ErrOutcomeUnknown says that a call was sent and no answer came: it may have been carried out or not.
	// Look for its effect before repeating it.
	ErrOutcomeUnknown = errors.New("the outcome of the call is unknown")
	// ErrClosed is returned by calls on a client after Close.
	ErrClosed = errors.New("the session has been closed")
	// ErrTooLarge says that a request or a reply exceeds its limit.
	ErrTooLarge = errors.New("too large")
	// ErrMalformed says that a reply is no JSON-RPC answer.
	ErrMalformed = errors.New("malformed reply")
)

// Error is a failure that the API itself reports, at once or as the failure of a task.
type Error struct {
	Code   string   // such as VDI_IN_USE
	Params []string // their meaning depends on Code; references, numbers, texts
	Method string   // the call that failed, without 'Async.'
}

func (e *Error) Error() string {
	text := e.Code
	if len(e.Params) > 0 {
		text += " [" + strings.Join(e.Params, ", ") + "]"
	}
	if e.Method == "" {
		return text
	}
	return e.Method + ": " + text
}

// IsCode reports whether err is, or wraps, an *Error with one of the codes.
func IsCode(err error, codes ...string) bool {
	var failure *Error
	return errors.As(err, &failure) && slices.Contains(codes, failure.Code)
}

// IsGone reports whether err says that the object ref itself exists no more. HANDLE_INVALID alone does not say so: its
// parameters are class and reference of any object that the call came across, a task among them.
func IsGone(err error, ref Ref) bool {
	var failure *Error
	return errors.As(err, &failure) && failure.Code == codeHandleInvalid && len(failure.Params) > 1 && failure.Params[1] == string(ref)
}

// IsTemporary reports whether err says nothing but that the pool did not answer, or not yet: a connection that was refused or
// broke, a session that ended, a toolstack that is starting, which takes it 10 to 60 s. What is idempotent is worth repeating
// then.
func IsTemporary(err error) bool {
	var certificate *CertificateError
	if errors.Is(err, ErrAuthentication) || errors.As(err, &certificate) {
		return false // waiting does not help
	}
	var status *StatusError
	return isTransport(err) || errors.Is(err, ErrOutcomeUnknown) ||
		IsCode(err, awayCodes...) || IsCode(err, codeSessionInvalid, codeHostIsSlave) ||
		errors.As(err, &status) && status.Status >= http.StatusBadGateway
}

// CertificateError says that a host showed a certificate that is not among the pinned ones, nor one that the coordinator told of:
// it was renewed, or this is another host. Nothing was sent to it.
type CertificateError struct {
	Address string // host:port that was dialled
	Got     string // SHA-256 of the leaf certificate shown, in hex
}

func (e *CertificateError) Error() string {
	return fmt.Sprintf("the certificate of %s is not one that was accepted for this pool: its SHA-256 fingerprint is %s; "+
		"compare it with the one on the host's console (openssl x509 -noout -fingerprint -sha256 -in /etc/xensource/xapi-ssl.pem) "+
		"and, if it is right, pin it: 'understudy pool add' under the pool's name again, with --fingerprint %s", e.Address, e.Got, e.Got)
}

// StatusError is an HTTP answer other than 200: the API answers so when it could not read a request, and never
// for a failed call (xapi-facts §1.2).
type StatusError struct {
	Address string
	Status  int
	Text    string // the page's text, shortened
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s answered HTTP %d instead of a reply: %s", e.Address, e.Status, e.Text)
}
