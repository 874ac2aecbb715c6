package appliance_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
)

func TestWrongOrchestrator(t *testing.T) {
	d := launch(t)
	stranger := control.NewClient(control.ClientOptions{Address: d.address, Identity: newIdentity(t), Peer: d.identity.Fingerprint})
	defer stranger.Close()
	if _, err := stranger.Status(t.Context()); err == nil || !strings.Contains(err.Error(), d.address) {
		t.Errorf("a stranger got status: %v", err)
	}
	// The right orchestrator does not talk to a wrong delegate either.
	deceived := control.NewClient(control.ClientOptions{Address: d.address, Identity: d.orchestrator, Peer: newIdentity(t).Fingerprint()})
	defer deceived.Close()
	if _, err := deceived.Status(t.Context()); !errors.Is(err, netproto.ErrIdentity) {
		t.Errorf("status of another delegate: %v, want ErrIdentity", err)
	}
	if _, err := d.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	d := prepare(t)
	c := control.NewClient(control.ClientOptions{Address: d.address, Identity: d.orchestrator, Peer: d.orchestrator.Fingerprint()})
	defer c.Close()
	_, err := c.Status(t.Context())
	if err == nil || !strings.Contains(err.Error(), d.address) || !strings.Contains(err.Error(), "check that the delegate runs") {
		t.Errorf("error is %v, want address and mend", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want that of the context", err)
	}
}

// A peer may move data, not control; the orchestrator may control, not move data.
func TestProtocolsAreKeptApart(t *testing.T) {
	p := newPair(t)
	p.target.plug(4, image(t, noise(2, diskSize)))
	peer := newIdentity(t)
	_, receive := p.specs("apart", diskSize, true)
	receive.Peer.Fingerprint = peer.Fingerprint()
	p.target.post(receive)
	asPeer := control.NewClient(control.ClientOptions{Address: p.target.address, Identity: peer, Peer: p.target.identity.Fingerprint})
	defer asPeer.Close()
	if _, err := asPeer.Status(t.Context()); err == nil {
		t.Error("a peer got the status")
	}
	if conn, err := netproto.Dial(t.Context(), p.target.address, p.target.orchestrator, p.target.identity.Fingerprint, netproto.Options{}); err == nil {
		t.Error("the orchestrator got a data connection")
		_ = conn.Close()
	}
}

func TestWrongPeerKey(t *testing.T) {
	p := newPairWith(t, impatient)
	p.source.plug(4, image(t, noise(1, diskSize)))
	p.target.plug(4, image(t, noise(2, diskSize)))
	send, receive := p.specs("wrong", diskSize, true)
	send.Sinks[0].Fingerprint = newIdentity(t).Fingerprint()
	p.target.post(receive)
	status := p.source.run(send)
	if status.State != control.StateFailed || !strings.Contains(status.Error, "wrong identity") {
		t.Errorf("dialled another key: task is %s: %s", status.State, status.Error)
	}
	if _, err := p.target.CancelTask(t.Context(), "wrong"); err != nil {
		t.Fatal(err)
	}
	// The other way: the listener was told of another key.
	send, receive = p.specs("wrong-2", diskSize, true)
	receive.Peer.Fingerprint = newIdentity(t).Fingerprint()
	p.target.post(receive)
	status = p.source.run(send)
	if status.State != control.StateFailed || !strings.Contains(status.Error, "refused") || !strings.Contains(status.Error, p.target.address) {
		t.Errorf("dialled with another key: task is %s: %s", status.State, status.Error)
	}
}

func TestWrongToken(t *testing.T) {
	p := newPairWith(t, impatient)
	original := noise(2, diskSize)
	replica := image(t, original)
	p.source.plug(4, image(t, noise(1, diskSize)))
	p.target.plug(4, replica)
	send, receive := p.specs("token", diskSize, true)
	wrong := control.Token(randomHex(16))
	send.Sinks[0].Token = wrong
	p.target.post(receive)
	status := p.source.run(send)
	if status.State != control.StateFailed || !strings.Contains(status.Error, "token is unknown") {
		t.Errorf("task is %s: %s", status.State, status.Error)
	}
	expectContent(t, replica, original)
	events, err := p.target.Events(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Events {
		if strings.Contains(e.Message, string(wrong)) || strings.Contains(e.Message, string(receive.Peer.Token)) {
			t.Errorf("event shows a token: %s", e.Message)
		}
	}
}

func TestWrongConfiguration(t *testing.T) {
	for name, test := range map[string]struct {
		key, value string // to change; an empty value removes
		want       string // in the cause
	}{
		"no nonce":             {control.InputPrefix + "nonce", "", "in/nonce is missing"},
		"short nonce":          {control.InputPrefix + "nonce", "00", "hexadecimal"},
		"no orchestrator":      {control.InputPrefix + "orchestrator", "", "in/orchestrator is missing"},
		"orchestrator":         {control.InputPrefix + "orchestrator", "abc", "fingerprint"},
		"address without mask": {control.InputPrefix + "address", "127.0.0.1", "ip/prefix"},
		"newline":              {control.InputPrefix + "later", "a\nb", "newline"},
		"no domain":            {"unique-domain-id", "", "no domain identity"},
		"address elsewhere":    {control.InputPrefix + "address", "192.0.2.77/24", "192.0.2.77:7811"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := prepare(t)
			path := d.Path + "/" + test.key
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			if test.value != "" {
				if err := os.WriteFile(path, []byte(test.value), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			d.start(func(o *appliance.Options) { o.ListenTimeout = 100 * time.Millisecond })
			err := d.awaitEnd()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Run is %v, want %q", err, test.want)
			}
			if cause, _ := d.ReadPublication(control.CauseKey); !strings.Contains(cause, test.want) {
				t.Errorf("published cause is %q, want %q", cause, test.want)
			}
			if _, ok := d.ReadPublication(control.IdentityKey); ok {
				t.Error("an identity was published")
			}
		})
	}
}

// Strangers who say nothing, or no TLS, do not keep others out.
func TestStrangers(t *testing.T) {
	d := launch(t)
	for range 8 {
		conn, err := net.Dial("tcp", d.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	plain, err := net.Dial("tcp", d.address)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := plain.Write([]byte("GET /v1/status HTTP/1.1\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	keyless, err := tls.Dial("tcp", d.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{control.ALPN}})
	if err == nil {
		if _, err := keyless.Read(make([]byte, 1)); err == nil {
			t.Error("a client without certificate was answered")
		}
		_ = keyless.Close()
	}
	if _, err := d.Status(t.Context()); err != nil {
		t.Error(err)
	}
}
