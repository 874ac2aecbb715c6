//go:build e2e

package e2e_test

import (
	"bytes"
	"crypto/rand"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/qemu"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/router"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// Two delegates in an IPv6 network with jumbo frames, one with a static address and one with DHCPv6, are reached over mutual TLS and
// move a disk. Before that the target's disk is torn away while it is written to.
func TestIPv6(t *testing.T) {
	t.Parallel()
	const mtu = 9000
	l := network(t)
	r, err := router.New(l.Socket(), router.Options{
		Prefix: netip.MustParsePrefix("fd77::/64"), FirstLease: netip.MustParseAddr("fd77::100"), MTU: mtu,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	key, err := manifest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	start := func(address string) *disks {
		a := boot(t, qemu.Options{Network: l.Socket(), Direct: direct(t)}, address, func(m *xapisim.Machine) {
			m.VIFs[0].MTU = mtu
			if address != control.AddressDHCP6 {
				m.Data[control.InputPrefix+control.InputGateway] = r.Address().String()
			}
		})
		return &disks{appliance: a, folder: folder(t), key: key}
	}
	source, target := start("fd77::20/64"), start(control.AddressDHCP6)
	for _, d := range []*disks{source, target} {
		d.client = d.meet(r)
		if err := d.client.SetKey(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	for d, want := range map[*disks]string{source: "[fd77::20]:7811", target: "[fd77::100]:7811"} {
		if got := d.client.Address(); got != want {
			t.Errorf("the delegate listens on %s, not %s", got, want)
		}
	}

	p := pair{source: source, target: target, size: 32 * mib}
	source.plug(1, p.size, true)
	target.plug(2, p.size, false)
	target.device(2)
	p.tear()
	p.copy()
	if largest := l.LargestPacket(source.mac); largest != mtu {
		t.Errorf("the source's largest packet had %d bytes, not %d", largest, mtu)
	}
	for _, d := range []*disks{source, target} {
		if strings.Contains(d.console(), "does not answer") {
			t.Errorf("the gateway was not found:\n%s", d.console())
		}
	}
}

// pair moves disk 1 of one delegate to disk 2 of another.
type pair struct {
	source, target *disks
	size           int64
	tuning         control.Tuning
}

// start has the source dial.
func (p pair) start(id string) {
	p.source.t.Helper()
	token := make(control.Token, 16)
	_, _ = rand.Read(token) // never fails
	for _, end := range []struct {
		*disks
		spec control.TaskSpec
	}{
		{p.target, control.TaskSpec{
			Kind: control.KindReceive, Device: 2, Generation: manifest.NewGeneration(), Peer: &control.Peer{Fingerprint: p.source.peer, Token: token},
		}},
		{p.source, control.TaskSpec{
			Kind: control.KindSend, Device: 1,
			Sinks: []control.Sink{{Peer: control.Peer{Fingerprint: p.target.peer, Token: token, Address: p.target.client.Address()}}},
		}},
	} {
		end.spec.ID, end.spec.Size, end.spec.KeyID, end.spec.Tuning = id, p.size, end.key.ID(), p.tuning
		if _, err := end.client.StartTask(end.t.Context(), end.spec); err != nil {
			end.t.Fatal(err)
		}
	}
}

// wait waits for both ends of a task.
func (p pair) wait(id string) (sent, received control.TaskStatus) {
	p.source.t.Helper()
	for d, status := range map[*disks]*control.TaskStatus{p.source: &sent, p.target: &received} {
		var err error
		if *status, err = d.client.WaitTask(limit(d.t, 2*time.Minute), id); err != nil {
			d.t.Fatal(err)
		}
	}
	return sent, received
}

// tear takes the target's disk away while it is written to, and gives it back. Both ends of the task say why they end.
func (p pair) tear() {
	t := p.target.t
	t.Helper()
	p.start("torn")
	for written := int64(0); written == 0; time.Sleep(20 * time.Millisecond) {
		status, err := p.target.client.Task(t.Context(), "torn")
		if err != nil || status.State.Ended() {
			t.Fatalf("the transfer does not run: %+v, %v", status, err)
		}
		written = status.Counters.Written
	}
	if err := p.target.Unplug(limit(t, time.Minute), "2"); err != nil {
		t.Fatal(err)
	}
	sent, received := p.wait("torn")
	if received.State != control.StateFailed || !strings.Contains(received.Error, "disk 2: disk was unplugged") {
		t.Errorf("the task whose disk was torn away: %+v", received)
	}
	if sent.State != control.StateFailed || !strings.Contains(sent.Error, "disk 2: disk was unplugged") {
		t.Errorf("its sender: %+v", sent)
	}
	if err := p.target.Plug(t.Context(), xapisim.Disk{UserDevice: "2", Path: p.target.path(2)}); err != nil {
		t.Fatal(err)
	}
	if device := p.target.device(2); device.SizeBytes != p.size || device.Problem != "" {
		t.Errorf("the disk came back as %+v", device)
	}
}

// copy moves the disk, and compares.
func (p pair) copy() (sent, received control.TaskStatus) {
	t := p.target.t
	t.Helper()
	p.start("whole")
	sent, received = p.wait("whole")
	if sent.State != control.StateDone || received.State != control.StateDone || sent.Root != received.Root {
		t.Fatalf("the transfer: %+v, %+v", sent, received)
	}
	want, err := os.ReadFile(p.source.path(1))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(p.target.path(2))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the target differs from the source")
	}
	return sent, received
}
