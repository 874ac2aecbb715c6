package manifest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"

	"github.com/zeebo/blake3"
)

// KeySize is the length of a Key's secret in bytes.
const KeySize = 32

// Contexts of BLAKE3's key derivation: one key a purpose, so that a digest of one kind never passes for one of another. They
// are part of the format and never change.
const (
	contextBlock  = "github.com/understudy-dr/understudy manifest v1 block"
	contextExtent = "github.com/understudy-dr/understudy manifest v1 extent"
	contextRoot   = "github.com/understudy-dr/understudy manifest v1 root"
	contextID     = "github.com/understudy-dr/understudy manifest v1 key id"
)

// Key is the secret of a digest domain, by default of an installation. Only digests under one Key can be compared. It never
// shows its secret when printed or logged. Two Keys are told apart by their IDs. The zero Key is no key: functions that can fail return ErrKey for it, the others
// panic. A Key may be used by several goroutines.
type Key struct {
	// Behind a function, because fmt cannot call the methods of a Key in another struct's unexported field: it would print
	// bytes, and with a verb that does not fit even what a pointer points to.
	keys func() *keys
}

type keys struct {
	secret, block, extent, root [KeySize]byte
	id                          KeyID
}

// KeyID names a Key without revealing it: 8 bytes derived from the secret one-way.
type KeyID [8]byte

// NewKey draws a random Key.
func NewKey() (Key, error) {
	var secret [KeySize]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return Key{}, fmt.Errorf("draw a digest key: %w", err)
	}
	return ParseKey(secret[:])
}

// ParseKey returns the Key with this secret of KeySize bytes, which is copied.
func ParseKey(secret []byte) (Key, error) {
	if len(secret) != KeySize {
		return Key{}, fmt.Errorf("digest key of %d bytes: %w: it has %d", len(secret), ErrInvalid, KeySize)
	}
	k := &keys{secret: [KeySize]byte(secret)}
	blake3.DeriveKey(contextBlock, secret, k.block[:])
	blake3.DeriveKey(contextExtent, secret, k.extent[:])
	blake3.DeriveKey(contextRoot, secret, k.root[:])
	blake3.DeriveKey(contextID, secret, k.id[:])
	return Key{func() *keys { return k }}, nil
}

// IsZero reports whether k is no key.
func (k Key) IsZero() bool { return k.keys == nil }

// Bytes returns a copy of the secret, for safe keeping.
func (k Key) Bytes() []byte { return append([]byte(nil), k.keys().secret[:]...) }

// ID returns the name of the Key; the zero KeyID for the zero Key.
func (k Key) ID() KeyID {
	if k.IsZero() {
		return KeyID{}
	}
	return k.keys().id
}

// String names the Key by its ID.
func (k Key) String() string {
	if k.IsZero() {
		return "key:none"
	}
	return "key:" + k.ID().String()
}

// GoString is String.
func (k Key) GoString() string { return k.String() }

// LogValue is String.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// check returns an ErrKey unless id names this Key.
func (k Key) check(id KeyID) error {
	if k.IsZero() {
		return fmt.Errorf("%w: no key was given", ErrKey)
	}
	if id != k.ID() {
		return fmt.Errorf("%w: digests are under key %s, the domain's key is %s; scan the disk anew or use the key it was read with", ErrKey, id, k.ID())
	}
	return nil
}

// ParseKeyID is the inverse of KeyID.String.
func ParseKeyID(s string) (id KeyID, err error) { return id, parseHex(id[:], "key id", s) }

// String returns the id in lower-case hexadecimal.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText is String.
func (id KeyID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is ParseKeyID.
func (id *KeyID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseKeyID(string(text))
	return err
}

// parseHex decodes lower-case hexadecimal of exactly len(dst) bytes. Other spellings of the same bytes are refused, since
// markers and state are compared as strings.
func parseHex(dst []byte, what, s string) error {
	if len(s) == 2*len(dst) {
		if _, err := hex.Decode(dst, []byte(s)); err == nil && hex.EncodeToString(dst) == s {
			return nil
		}
	}
	clear(dst)
	return fmt.Errorf("%s %.80q: %w: it has %d lower-case hexadecimal digits", what, s, ErrInvalid, 2*len(dst))
}
