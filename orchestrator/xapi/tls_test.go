package xapi_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

func TestWrongCertificateIsNamedAndGetsNoPassword(t *testing.T) {
	host := newFakeHost(t, "127.0.0.1:0")
	config := configFor(host)
	config.Fingerprints = []string{strings.Repeat("00", 32)}
	_, err := xapi.Dial(t.Context(), config)
	var wrong *xapi.CertificateError
	if !errors.As(err, &wrong) || wrong.Got != host.fingerprint() || wrong.Address != host.address() {
		t.Fatalf("got %v", err)
	}
	if host.count("session.login_with_password") != 0 {
		t.Error("the password was sent to a host that was not trusted")
	}
}

func TestFingerprintForms(t *testing.T) {
	host := newFakeHost(t, "127.0.0.1:0")
	got, err := xapi.FetchFingerprint(t.Context(), host.address())
	if err != nil || got != host.fingerprint() {
		t.Fatalf("fetched %q, %v", got, err)
	}
	var pairs []string
	for i := 0; i < len(got); i += 2 {
		pairs = append(pairs, strings.ToUpper(got[i:i+2]))
	}
	config := configFor(host)
	config.Fingerprints = []string{strings.Join(pairs, ":")} // as openssl prints it
	dial(t, config)
}

func TestFetchFingerprintOfNobody(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if got, err := xapi.FetchFingerprint(ctx, "127.0.0.1:1"); err == nil {
		t.Errorf("got %q", got)
	}
	if _, err := xapi.FetchFingerprint(ctx, "not an address:x:y"); err == nil {
		t.Error("a bad address was accepted")
	}
}

func TestProtocolVersions(t *testing.T) {
	for _, c := range []struct {
		name   string
		config *tls.Config
		ok     bool
	}{
		{"a host of 7.x, one old cipher suite", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA256}}, true},
		{"TLS 1.2", &tls.Config{MaxVersion: tls.VersionTLS12}, true},
		{"TLS 1.3", &tls.Config{MinVersion: tls.VersionTLS13}, true},
		{"TLS 1.1", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
	} {
		host := &fakeHost{}
		host.Server = httptest.NewUnstartedServer(nil)
		host.TLS = c.config
		host.Config.ErrorLog = silent
		host.StartTLS()
		_, err := xapi.FetchFingerprint(t.Context(), host.address())
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		host.Close()
	}
}
