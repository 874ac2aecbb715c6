package xapisim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"time"
)

// certificate is a host's self-signed certificate, as hosts have them unless an administrator installs another.
type certificate struct {
	pair        tls.Certificate
	fingerprint string // SHA-256 of the certificate's DER form, lower-case hexadecimal
	pem         string
}

func newCertificate(address net.IP) (*certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", address, err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, fmt.Errorf("serial number of %s: %w", address, err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: address.String()}, IPAddresses: []net.IP{address},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", address, err)
	}
	sum := sha256.Sum256(der)
	return &certificate{
		pair:        tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		fingerprint: hex.EncodeToString(sum[:]),
		pem:         string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
	}, nil
}

// openSSL is the fingerprint as the data model has it: upper-case bytes with colons between.
func (c *certificate) openSSL() string {
	var bytes []string
	for pair := range slices.Chunk([]byte(strings.ToUpper(c.fingerprint)), 2) {
		bytes = append(bytes, string(pair))
	}
	return strings.Join(bytes, ":")
}
