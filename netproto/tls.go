package netproto

import (
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
)

// ALPN is the application protocol of this package's connections. A listener that also serves the control API on the same
// port tells the two apart by it.
const ALPN = "understudy-data/1"

// ClientTLS returns the dialer's configuration: TLS 1.3 with this identity, accepted only by the listener whose key has the
// fingerprint peer; otherwise the handshake fails with an *IdentityError. If alpn is given, one of it must be agreed upon.
func (id *Identity) ClientTLS(peer Fingerprint, alpn ...string) *tls.Config {
	return id.pinned(alpn, func(got Fingerprint) error {
		if got != peer {
			return &IdentityError{Got: got, Want: peer}
		}
		return nil
	})
}

// ServerTLS returns the listener's configuration: TLS 1.3 with this identity. Every dialer must show a certificate, and
// allowed is asked about its fingerprint, perhaps from several goroutines at once; a no fails the handshake with an
// *IdentityError. If alpn is given, one of it must be agreed upon.
func (id *Identity) ServerTLS(allowed func(Fingerprint) bool, alpn ...string) *tls.Config {
	config := id.pinned(alpn, func(got Fingerprint) error {
		if !allowed(got) {
			return &IdentityError{Got: got}
		}
		return nil
	})
	config.ClientAuth = tls.RequireAnyClientCert
	return config
}

// pinned builds what both ends share. InsecureSkipVerify is right here: it switches off chains, names and dates, none of which
// means anything for a self-signed key, while TLS still proves that the peer holds the private key of the certificate it showed,
// and VerifyConnection compares that key with the pin. VerifyConnection is used, not VerifyPeerCertificate, since the latter is
// skipped on resumed sessions; there are none, as tickets are off on both ends, but a pin should not hang on that.
func (id *Identity) pinned(alpn []string, check func(Fingerprint) error) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{id.certificate},
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
		NextProtos:             alpn,
		// Small first records save a page load some milliseconds; a transfer wants full ones.
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			got, err := PeerFingerprint(state)
			if err != nil {
				return err
			}
			if err := check(got); err != nil {
				return err
			}
			if len(alpn) > 0 && state.NegotiatedProtocol == "" {
				return violation("the peer offered none of the application protocols %q", alpn)
			}
			return nil
		},
	}
}

// PeerFingerprint returns the fingerprint of the key that the peer has proved to hold, or an *IdentityError when it showed
// none or one that is not Ed25519.
func PeerFingerprint(state tls.ConnectionState) (Fingerprint, error) {
	if len(state.PeerCertificates) == 0 {
		return "", &IdentityError{}
	}
	key, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return "", &IdentityError{}
	}
	return fingerprintOf(key), nil
}

// explainAlert turns a TLS alert sent by the peer into an ErrRefused. A TLS 1.3 listener judges the dialer's certificate after
// the dialer's handshake is over, so a dialer meets the alert only when it first reads.
func explainAlert(err error) error {
	var operation *net.OpError
	if errors.As(err, &operation) && operation.Op == "remote error" {
		return fmt.Errorf("%w: %w; check that the peer was told this end's fingerprint, and both speak TLS 1.3", ErrRefused, err)
	}
	return err
}
