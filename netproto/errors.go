package netproto

import (
	"errors"
	"fmt"
)

// Errors that callers tell apart with errors.Is. The errors returned wrap them and name cause and mend.
var (
	// ErrIdentity: the peer's key is not the one this end was told to expect, or the peer showed none.
	ErrIdentity = errors.New("netproto: wrong identity")
	// ErrRefused: the peer ended the TLS handshake, most often because this end's key is not the one it expects.
	ErrRefused = errors.New("netproto: refused by the peer")
	// ErrVersion: the peer speaks another major version.
	ErrVersion = errors.New("netproto: incompatible protocol version")
	// ErrPeerSilent: nothing was heard from the peer for the time allowed.
	ErrPeerSilent = errors.New("netproto: peer silent")
	// ErrProtocol: the peer sent what the protocol forbids.
	ErrProtocol = errors.New("netproto: protocol violation")
	// ErrFrame: a frame given to WriteFrame cannot be sent: a reserved type, or more than MaxPayload bytes.
	ErrFrame = errors.New("netproto: frame cannot be sent")
	// ErrOptions: an option is out of its range.
	ErrOptions = errors.New("netproto: bad option")
)

// IdentityError says whose key was met and whose was expected. It is an ErrIdentity.
type IdentityError struct {
	Got  Fingerprint // empty when the peer showed no Ed25519 certificate
	Want Fingerprint // empty on a listener, which asks a function
}

func (e *IdentityError) Error() string {
	got, want := "has key "+string(e.Got), "want "+string(e.Want)
	if e.Got == "" {
		got = "showed no Ed25519 certificate"
	}
	if e.Want == "" {
		want = "want one that this end was told to allow"
	}
	return fmt.Sprintf("%v: the peer %s, %s; check the address, and fetch the peer's fingerprint anew if it was restarted",
		ErrIdentity, got, want)
}

// Is makes errors.Is(err, ErrIdentity) hold.
func (e *IdentityError) Is(target error) bool { return target == ErrIdentity }

// VersionError says which versions met. It is an ErrVersion.
type VersionError struct{ Local, Remote Version }

func (e *VersionError) Error() string {
	mend := "upgrade the peer"
	if e.Remote.Major > e.Local.Major {
		mend = "upgrade this end"
	}
	return fmt.Sprintf("%v: this end speaks %v, the peer %v; %s", ErrVersion, e.Local, e.Remote, mend)
}

// Is makes errors.Is(err, ErrVersion) hold.
func (e *VersionError) Is(target error) bool { return target == ErrVersion }

// ErrorCode says in a frame ERROR what went wrong, for a program to act upon.
type ErrorCode uint16

// Codes below FirstApplicationCode are netproto's own.
const (
	CodeProtocol ErrorCode = 1 // the other end violated the protocol
	CodeSilent   ErrorCode = 2 // the other end was not heard for too long

	FirstApplicationCode ErrorCode = 0x100
)

// RemoteError is what the peer gave to CloseWithError, or what it held against this end.
type RemoteError struct {
	Code    ErrorCode
	Message string // at most MaxErrorMessage bytes, UTF-8
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("the peer reports error %d: %q", e.Code, e.Message)
}

func violation(format string, arguments ...any) error {
	return fmt.Errorf("%w: %w; check that both ends run released software", ErrProtocol, fmt.Errorf(format, arguments...))
}
