package netproto

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"time"
)

// Fingerprint names a key: the SHA-256 of the 32 raw bytes of an Ed25519 public key, in 64 lower-case hexadecimal digits.
type Fingerprint string

// ParseFingerprint checks that s has the form of a fingerprint.
func ParseFingerprint(s string) (Fingerprint, error) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != sha256.Size || hex.EncodeToString(raw) != s {
		return "", fmt.Errorf("netproto: %.80q is no fingerprint; it has %d lower-case hexadecimal digits", s, 2*sha256.Size)
	}
	return Fingerprint(s), nil
}

func fingerprintOf(key ed25519.PublicKey) Fingerprint {
	sum := sha256.Sum256(key)
	return Fingerprint(hex.EncodeToString(sum[:]))
}

// Identity is one end's Ed25519 key with a self-signed certificate around it. It is immutable and safe for concurrent use.
// However it is printed or logged, only the fingerprint shows.
type Identity struct {
	key         ed25519.PrivateKey
	certificate tls.Certificate
	fingerprint Fingerprint
}

// NewIdentity makes a key pair.
func NewIdentity() (*Identity, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("netproto: make a key: %w", err)
	}
	return newIdentity(key)
}

// ParseIdentity restores the identity whose Seed was kept.
func ParseIdentity(seed []byte) (*Identity, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("netproto: an identity's seed has %d bytes, not %d; restore it from its backup or make a new identity",
			ed25519.SeedSize, len(seed))
	}
	return newIdentity(ed25519.NewKeyFromSeed(seed))
}

func newIdentity(key ed25519.PrivateKey) (*Identity, error) {
	public := key.Public().(ed25519.PublicKey)
	// X.509 demands these fields; no end of this protocol reads them.
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "understudy"},
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // 'no expiry', RFC 5280 §4.1.2.5
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		return nil, fmt.Errorf("netproto: make the identity's certificate: %w", err)
	}
	return &Identity{
		key:         key,
		certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		fingerprint: fingerprintOf(public),
	}, nil
}

// Seed returns the 32 secret bytes from which ParseIdentity restores the identity.
func (id *Identity) Seed() []byte { return id.key.Seed() }

// Fingerprint returns what peers pin.
func (id *Identity) Fingerprint() Fingerprint { return id.fingerprint }

// String returns the fingerprint, never the key.
func (id Identity) String() string { return "identity " + string(id.fingerprint) }

// Format prints String for every verb, for %d and %#v would otherwise show the key's bytes.
func (id Identity) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, id.String()) // fmt.State reports no errors
}

// LogValue logs the fingerprint, never the key.
func (id Identity) LogValue() slog.Value { return slog.StringValue(id.String()) }
