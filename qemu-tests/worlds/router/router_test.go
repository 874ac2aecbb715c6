package router_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/router"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var prefix = netip.MustParsePrefix("fd77::/64")

// machineMAC and machineIP are the test's own.
var machineMAC, machineIP = []byte{2, 0, 0, 0, 0, 9}, netip.MustParseAddr("fe80::9")

// connect starts a router, with the test in the place of the switch.
func connect(t *testing.T, o router.Options) (*router.Router, net.Conn) {
	t.Helper()
	listener, err := net.Listen("unix", t.TempDir()+"/lan")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	r, err := router.New(listener.Addr().String(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	wire, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = wire.Close() })
	return r, wire
}

// packet sends an IPv6 packet with a checksum at the given offset of its payload.
func packet(t *testing.T, wire net.Conn, destination string, protocol byte, payload []byte, checksum int) {
	t.Helper()
	to := netip.MustParseAddr(destination)
	sum := sumOf(machineIP, to, protocol, payload)
	binary.BigEndian.PutUint16(payload[checksum:], ^sum)
	frame := append([]byte{0x33, 0x33}, to.AsSlice()[12:]...)
	frame = append(frame, machineMAC...)
	frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, byte(len(payload)>>8), byte(len(payload)), protocol, 255)
	frame = append(append(append(frame, machineIP.AsSlice()...), to.AsSlice()...), payload...)
	if _, err := wire.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
		t.Fatal(err)
	}
}

// sumOf is the one's complement sum of RFC 8200 §8.1: all ones when the payload holds its checksum.
func sumOf(source, destination netip.Addr, protocol byte, payload []byte) uint16 {
	b := append(source.AsSlice(), destination.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = append(append(b, 0, 0, 0, protocol), payload...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// received is an IPv6 packet.
type received struct {
	source  netip.Addr
	hops    byte
	payload []byte
}

// await reads frames until one is of a protocol and, by its first payload bytes, what is wanted.
func await(t *testing.T, wire net.Conn, protocol byte, want []byte) received {
	t.Helper()
	if err := wire.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for {
		var length [4]byte
		if _, err := io.ReadFull(wire, length[:]); err != nil {
			t.Fatal(err)
		}
		frame := make([]byte, binary.BigEndian.Uint32(length[:]))
		if _, err := io.ReadFull(wire, frame); err != nil {
			t.Fatal(err)
		}
		// Fields by RFC 8200 §3, behind an Ethernet header.
		fixed, payload := frame[14:54], frame[54:]
		if fixed[6] != protocol || !bytes.HasPrefix(payload, want) {
			continue
		}
		p := received{netip.AddrFrom16([16]byte(fixed[8:24])), fixed[7], payload}
		if sum := sumOf(p.source, netip.AddrFrom16([16]byte(fixed[24:40])), protocol, payload); sum != 0xffff {
			t.Errorf("the checksum is wrong: %04x of %x", sum, payload)
		}
		return p
	}
}

const icmp, udp = 58, 17

// Golden bytes of RFC 4861 §4.2, but for the checksum.
func TestAdvertisement(t *testing.T) {
	for flags, o := range map[string]router.Options{
		"00": {Prefix: prefix}, "80": {Prefix: prefix, FirstLease: netip.MustParseAddr("fd77::100")},
	} {
		_, wire := connect(t, o)
		packet(t, wire, "ff02::2", icmp, []byte{133, 0, 0, 0, 0, 0, 0, 0}, 2)
		got := await(t, wire, icmp, []byte{134})
		want := "40" + flags + "0708" + strings.Repeat("00", 8) + "01010a7573000601" +
			"0304408000015180000151800000000" + "0" + "fd77" + strings.Repeat("00", 14)
		if text := hex.EncodeToString(got.payload[4:]); text != want || got.hops != 255 || got.source.String() != "fe80::1" {
			t.Errorf("of %s, %d hops:\n%s, not\n%s", got.source, got.hops, text, want)
		}
	}
}

func TestDHCP(t *testing.T) {
	_, wire := connect(t, router.Options{Prefix: prefix, FirstLease: netip.MustParseAddr("fd77::100")})
	for i, want := range []string{"fd77::100", "fd77::101", "fd77::100"} {
		question, err := dhcpv6.NewSolicit(net.HardwareAddr{2, 0, 0, 0, 0, byte(i % 2)})
		if err != nil {
			t.Fatal(err)
		}
		question.UpdateOption(dhcpv6.OptClientID(&dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, byte(i % 2)}}))
		body := question.ToBytes()
		datagram := binary.BigEndian.AppendUint16([]byte{2, 34, 2, 35}, uint16(8+len(body)))
		packet(t, wire, "ff02::1:2", udp, append(append(datagram, 0, 0), body...), 6)
		// The server looks for the client's Ethernet address first.
		if i == 0 {
			solicitation := await(t, wire, icmp, []byte{135})
			advertise := append([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, machineIP.AsSlice()...)
			packet(t, wire, solicitation.source.String(), icmp, append(append(advertise, 2, 1), machineMAC...), 2)
		}
		answer, err := dhcpv6.MessageFromBytes(await(t, wire, udp, []byte{2, 35, 2, 34}).payload[8:])
		if err != nil {
			t.Fatal(err)
		}
		if got := answer.Options.OneIANA().Options.OneAddress().IPv6Addr.String(); got != want || answer.MessageType != dhcpv6.MessageTypeAdvertise {
			t.Errorf("%s of %s, not of %s", answer.MessageType, got, want)
		}
	}
}

func TestRefuses(t *testing.T) {
	for _, o := range []router.Options{{Prefix: netip.MustParsePrefix("10.77.0.0/24")}, {Prefix: prefix, FirstLease: netip.MustParseAddr("fd78::1")}} {
		if r, err := router.New("/nonexistent", o); err == nil || !strings.Contains(err.Error(), "needed") {
			t.Errorf("%+v was taken: %v, %v", o, r, err)
		}
	}
	if _, err := router.New("/nonexistent", router.Options{Prefix: prefix}); err == nil {
		t.Error("connected to nothing")
	}
	r, _ := connect(t, router.Options{Prefix: prefix})
	for _, c := range [][2]string{{"udp", "[fd77::9]:80"}, {"tcp", "[fd78::9]:80"}, {"tcp", "10.77.0.5:80"}, {"tcp", "host:80"}} {
		if c, err := r.DialContext(t.Context(), c[0], c[1]); err == nil {
			t.Errorf("dialled %v", c)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.DialContext(ctx, "tcp", "[fd77::9]:80"); err == nil {
		t.Error("nobody was reached")
	}
}
