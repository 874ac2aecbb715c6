package netproto_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/netproto"
)

func TestIdentityIsRestoredFromItsSeed(t *testing.T) {
	seed, err := hex.DecodeString(strings.Repeat("07", 32))
	if err != nil {
		t.Fatal(err)
	}
	id, err := netproto.ParseIdentity(seed)
	if err != nil {
		t.Fatal(err)
	}
	if want := netproto.Golden(t)["fingerprint"]; hex.EncodeToString(want) != string(id.Fingerprint()) {
		t.Errorf("fingerprint %s, in docs/protocol.md %x", id.Fingerprint(), want)
	}
	if !bytes.Equal(id.Seed(), seed) {
		t.Error("the seed is not kept")
	}
	if _, err := netproto.ParseIdentity(seed[1:]); err == nil {
		t.Error("a short seed is accepted")
	}
	if a, b := newIdentity(t), newIdentity(t); a.Fingerprint() == b.Fingerprint() {
		t.Error("two new identities are the same")
	}
}

func TestIdentityNeverShowsItsSeed(t *testing.T) {
	id := newIdentity(t)
	seed := id.Seed()
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("", "pointer", id, "value", *id)
	shown := log.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T %v"} {
		shown += fmt.Sprintf(verb, id, id) + fmt.Sprintf(verb, *id, *id)
	}
	for _, form := range []string{hex.EncodeToString(seed), strings.Trim(fmt.Sprint(seed), "[]"), fmt.Sprintf("0x%x, 0x%x", seed[0], seed[1]), string(seed)} {
		if strings.Contains(strings.ToLower(shown), strings.ToLower(form)) {
			t.Errorf("the seed shows as %q in %s", form, shown)
		}
	}
	if !strings.Contains(log.String(), string(id.Fingerprint())) {
		t.Errorf("the log lacks the fingerprint: %s", log.String())
	}
}

func TestParseFingerprint(t *testing.T) {
	good := string(newIdentity(t).Fingerprint())
	if got, err := netproto.ParseFingerprint(good); err != nil || string(got) != good {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range []string{"", good[1:], good + "00", strings.ToUpper("ab" + good[2:]), "zz" + good[2:]} {
		if _, err := netproto.ParseFingerprint(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// certify makes a certificate that ended long ago.
func certify(t *testing.T, key crypto.Signer) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(3600, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// dial is Dial with a configuration of the test's.
func dial(t *testing.T, address string, config *tls.Config) (*netproto.Conn, error) {
	t.Helper()
	socket, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return netproto.Client(t.Context(), tls.Client(netproto.Meter(socket), config), options)
}

// TestPins lets ends meet that one of them must refuse, and some that both must accept.
func TestPins(t *testing.T) {
	a, b, stranger := newIdentity(t), newIdentity(t), newIdentity(t)
	ecdsaKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dialer := func(change func(*tls.Config)) *tls.Config {
		c := a.ClientTLS(b.Fingerprint(), netproto.ALPN)
		change(c)
		return c
	}
	listener := func(change func(*tls.Config)) *tls.Config {
		c := b.ServerTLS(only(a.Fingerprint()), netproto.ALPN)
		change(c)
		return c
	}
	same := func(*tls.Config) {}
	showing := func(key crypto.Signer) func(*tls.Config) {
		return func(c *tls.Config) { c.Certificates = []tls.Certificate{certify(t, key)} }
	}
	oldTLS := func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }
	keyOf := func(id *netproto.Identity) crypto.Signer { return ed25519.NewKeyFromSeed(id.Seed()) }
	for name, test := range map[string]struct {
		dialer, listener         *tls.Config
		dialerWant, listenerWant error
	}{
		"good":                  {dialer(same), listener(same), nil, nil},
		"expired dialer":        {dialer(showing(keyOf(a))), listener(same), nil, nil},
		"expired listener":      {dialer(same), listener(showing(keyOf(b))), nil, nil},
		"wrong listener":        {a.ClientTLS(stranger.Fingerprint(), netproto.ALPN), listener(same), netproto.ErrIdentity, netproto.ErrRefused},
		"wrong dialer":          {stranger.ClientTLS(b.Fingerprint(), netproto.ALPN), listener(same), netproto.ErrRefused, netproto.ErrIdentity},
		"no client certificate": {dialer(func(c *tls.Config) { c.Certificates = nil }), listener(same), netproto.ErrRefused, errAny},
		"dialer not Ed25519":    {dialer(showing(ecdsaKey)), listener(same), netproto.ErrRefused, netproto.ErrIdentity},
		"stolen certificate":    {dialer(func(c *tls.Config) { c.Certificates[0].PrivateKey = keyOf(stranger) }), listener(same), netproto.ErrRefused, errAny},
		"dialer of TLS 1.2":     {dialer(oldTLS), listener(same), netproto.ErrRefused, errAny},
		"listener of TLS 1.2":   {dialer(same), listener(oldTLS), errAny, errAny},
		"no ALPN":               {dialer(func(c *tls.Config) { c.NextProtos, c.VerifyConnection = nil, nil }), listener(same), netproto.ErrProtocol, netproto.ErrProtocol},
		"other ALPN":            {a.ClientTLS(b.Fingerprint(), "understudy-control/1"), listener(func(c *tls.Config) { c.NextProtos = []string{"understudy-control/1"} }), netproto.ErrProtocol, netproto.ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			tcp := listen(t)
			accepted := serve(t, tcp, test.listener, options)
			d, dialerErr := dial(t, tcp.Addr().String(), test.dialer)
			r := <-accepted
			for _, c := range []*netproto.Conn{d, r.conn} {
				if c != nil {
					closeLater(t, c)
				}
			}
			checkRefusal(t, "dialer", dialerErr, test.dialerWant)
			checkRefusal(t, "listener", r.err, test.listenerWant)
			if test.dialerWant == nil && (d.Peer().Fingerprint != b.Fingerprint() || r.conn.Peer().Fingerprint != a.Fingerprint()) {
				t.Errorf("peers %s, %s", d.Peer().Fingerprint, r.conn.Peer().Fingerprint)
			}
			if test.dialerWant == nil && d.Stats().BytesRead != r.conn.Stats().BytesWritten {
				t.Errorf("dialer read %d bytes, listener wrote %d", d.Stats().BytesRead, r.conn.Stats().BytesWritten)
			}
		})
	}
	var mismatch *netproto.IdentityError
	config := a.ClientTLS(stranger.Fingerprint())
	err = config.VerifyConnection(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf(t, b)}})
	if !errors.As(err, &mismatch) || mismatch.Got != b.Fingerprint() || mismatch.Want != stranger.Fingerprint() {
		t.Errorf("a wrong key is reported as %v", err)
	}
	anyone := b.ServerTLS(func(netproto.Fingerprint) bool { return true })
	wantError(t, "a listener that allows anyone meets no certificate", anyone.VerifyConnection(tls.ConnectionState{}), netproto.ErrIdentity)
}

// errAny stands for errors of crypto/tls that have no value of their own.
var errAny = errors.New("any error")

func checkRefusal(t *testing.T, end string, err, want error) {
	t.Helper()
	switch {
	case want == nil && err != nil, want != nil && err == nil:
		t.Errorf("%s: %v, want %v", end, err, want)
	case want != nil && want != errAny:
		wantError(t, end, err, want)
	}
}

func leaf(t *testing.T, id *netproto.Identity) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(id.ClientTLS("").Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return c
}
