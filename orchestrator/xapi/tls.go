package xapi

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	dialTimeout = 10 * time.Second
	// idleTimeout is shorter than what hosts keep, so that a call rarely meets a connection just closed.
	idleTimeout = 20 * time.Second
)

// cipherSuites are Go's own for TLS 1.2 and one more: hosts before 8.2 offer TLS_RSA_WITH_AES_128_CBC_SHA256
// alone, which Go leaves out by default for its lack of forward secrecy. It is taken only when nothing better
// is offered.
func cipherSuites() []uint16 {
	suites := []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA256}
	for _, suite := range tls.CipherSuites() {
		suites = append(suites, suite.ID)
	}
	return suites
}

// tlsConfig checks a host by its leaf certificate alone. Hosts have self-signed certificates for names that
// nobody resolves, so that name and issuer say nothing (xapi-facts §1.6). With no check given, any is taken.
func tlsConfig(check func(leaf []byte) error) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		CipherSuites:       cipherSuites(),
		InsecureSkipVerify: true, // replaced by VerifyConnection, which always runs
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errors.New("the host showed no certificate")
			}
			return check(state.PeerCertificates[0].Raw)
		},
	}
}

func fingerprint(leaf []byte) string {
	sum := sha256.Sum256(leaf)
	return hex.EncodeToString(sum[:])
}

// parseFingerprint accepts hex in either case, with colons as OpenSSL prints it or without.
func parseFingerprint(text string) (string, error) {
	plain := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(text), ":", ""))
	raw, err := hex.DecodeString(plain)
	if err != nil || len(raw) != sha256.Size {
		return "", fmt.Errorf("%q is not a SHA-256 fingerprint of 64 hex digits", text)
	}
	return plain, nil
}

// newHTTPClient makes connections, and keeps them if told to, which follow no redirection. HTTP/1.1 only, no proxy: a management
// network has none.
func newHTTPClient(accepts func(fingerprint string) bool, keeps bool) *http.Client {
	dialer := newDialer()
	transport := &http.Transport{
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialTLS(ctx, dialer, network, address, func(leaf []byte) error {
				if got := fingerprint(leaf); !accepts(got) {
					return &CertificateError{Address: address, Got: got}
				}
				return nil
			})
		},
		MaxIdleConnsPerHost: maxCalls,
		IdleConnTimeout:     idleTimeout,
		DisableKeepAlives:   !keeps,
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func dialTLS(ctx context.Context, dialer *net.Dialer, network, address string, check func([]byte) error) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&tls.Dialer{NetDialer: dialer, Config: tlsConfig(check)}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil
}

// FetchFingerprint returns the SHA-256, in hex, of the certificate that a host shows. It trusts nothing: it is
// what an administrator compares and accepts when a pool is added.
func FetchFingerprint(ctx context.Context, address string) (string, error) {
	address, err := withPort(address)
	if err != nil {
		return "", err
	}
	conn, err := dialTLS(ctx, &net.Dialer{}, "tcp", address, func([]byte) error { return nil })
	if err != nil {
		return "", fmt.Errorf("fetch the certificate of %s: %w", address, err)
	}
	defer conn.Close()
	return fingerprint(conn.ConnectionState().PeerCertificates[0].Raw), nil
}
