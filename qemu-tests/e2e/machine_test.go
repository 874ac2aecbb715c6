//go:build e2e

package e2e_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/qemu"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// bootTime bounds the way from power-on to 'ready' on a busy computer.
const bootTime = 2 * time.Minute

// appliance is a delegate without a pool: the test is its orchestrator.
type appliance struct {
	xapisim.Guest
	t        testing.TB
	dir      string
	identity *netproto.Identity // the orchestrator's
	nonce    string
	domain   string
	mac      net.HardwareAddr
	peer     netproto.Fingerprint // the delegate's, once it is met
}

var domains atomic.Int64

// configuration is what an orchestrator tells a delegate.
func configuration(t testing.TB, address string) (*netproto.Identity, string, map[string]string) {
	t.Helper()
	identity, err := netproto.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails
	nonce := hex.EncodeToString(random)
	return identity, nonce, map[string]string{
		control.InputPrefix + control.InputNonce:        nonce,
		control.InputPrefix + control.InputOrchestrator: string(identity.Fingerprint()),
		control.InputPrefix + control.InputAddress:      address,
	}
}

// boot starts a machine with the given address. change alters it before; nil for nothing.
func boot(t testing.TB, o qemu.Options, address string, change func(*xapisim.Machine)) *appliance {
	t.Helper()
	dir := folder(t)
	o.Dir = filepath.Join(dir, "machines")
	a := &appliance{t: t, domain: uuid.NewString(), mac: newMAC()}
	m := xapisim.Machine{
		UUID: uuid.NewString(), Name: "delegate", DomainID: domains.Add(1), UniqueDomainID: a.domain, Memory: 256 << 20, VCPUs: 1, Firmware: "bios",
		VIFs: []xapisim.VIF{{Device: "0", MAC: a.mac.String(), MTU: 1500}},
	}
	a.identity, a.nonce, m.Data = configuration(t, address)
	if o.Direct == nil {
		m.Disks = []xapisim.Disk{{UserDevice: "0", Path: bootDisk(t, dir)}}
	}
	if change != nil {
		change(&m)
	}
	a.dir = filepath.Join(o.Dir, m.UUID+"."+strconv.FormatInt(m.DomainID, 10))
	guest, err := qemu.New(o).Start(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	a.Guest = guest
	t.Cleanup(func() {
		if err := guest.Kill(); err != nil {
			t.Error(err)
		}
		<-guest.Done()
	})
	return a
}

func newMAC() net.HardwareAddr {
	b := make(net.HardwareAddr, 6)
	_, _ = rand.Read(b) // never fails
	b[0] = b[0]&^1 | 2  // one machine's, locally administered
	return b
}

// bootDisk copies the image's disk: a machine may write to its own.
func bootDisk(t testing.TB, dir string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(image, "boot.raw"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "boot.raw")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// await waits until the guest has published a key.
func (a *appliance) await(key string, within time.Duration) string {
	a.t.Helper()
	deadline := time.After(within)
	for {
		tree, err := a.Tree()
		if err != nil {
			a.t.Fatal(err)
		}
		if tree[key] != "" {
			return tree[key]
		}
		select {
		case <-a.Changed():
		case <-a.Done():
			if tree, err = a.Tree(); err != nil || tree[key] == "" {
				a.t.Fatalf("the machine has ended without %s: %v, %v\n%s", key, tree, err, a.console())
			}
		case <-deadline:
			a.t.Fatalf("no %s within %v; the console:\n%s", key, within, a.console())
		}
	}
}

// awaitEnd waits until the machine is gone.
func (a *appliance) awaitEnd(within time.Duration) {
	a.t.Helper()
	select {
	case <-a.Done():
	case <-time.After(within):
		a.t.Fatalf("the machine runs on; its console:\n%s", a.console())
	}
}

func (a *appliance) console() string {
	content, err := os.ReadFile(filepath.Join(a.dir, "console.log"))
	if err != nil {
		a.t.Error(err)
	}
	return string(content)
}

// says checks what stands on the console.
func (a *appliance) says(texts ...string) {
	a.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		console := a.console()
		missing := ""
		for _, text := range texts {
			if !strings.Contains(console, text) {
				missing = text
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			a.t.Errorf("%q is not on the console:\n%s", missing, console)
			return
		}
	}
}

// dialer reaches delegates: a LAN, or a router in it.
type dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// meet waits until the delegate is ready, checks who it is, and makes a client.
func (a *appliance) meet(d dialer) *control.Client {
	a.t.Helper()
	identity, err := control.ParseIdentity(a.await(control.IdentityKey, bootTime))
	if err != nil {
		a.t.Fatal(err)
	}
	if identity.Nonce != a.nonce || identity.UniqueDomainID != a.domain {
		a.t.Fatalf("another delegate's identity: %+v", identity)
	}
	a.peer = identity.Fingerprint
	tree, err := a.Tree()
	if err != nil {
		a.t.Fatal(err)
	}
	address, err := netip.ParseAddr(cmp.Or(tree["attr/vif/0/ipv4/0"], tree["attr/vif/0/ipv6/0"]))
	if err != nil {
		a.t.Fatal(err)
	}
	client := control.NewClient(control.ClientOptions{
		Address: netip.AddrPortFrom(address, control.Port).String(), Identity: a.identity, Peer: identity.Fingerprint, Dial: d.DialContext,
	})
	a.t.Cleanup(client.Close)
	status, err := client.Status(limit(a.t, time.Minute))
	if err != nil {
		a.t.Fatal(err)
	}
	if status.Nonce != a.nonce {
		a.t.Errorf("status: %+v", status)
	}
	return client
}
