package lan_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/containers/gvisor-tap-vsock/pkg/virtualnetwork"
	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/lan"
)

func TestMain(m *testing.M) {
	// What gvisor-tap-vsock starts and cannot end: see doc.go.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*dispatcher).init.gowrap1"),
		goleak.IgnoreAnyFunction("gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*processor).start"),
		goleak.IgnoreAnyFunction("gvisor.dev/gvisor/pkg/tcpip/transport/tcp.(*listenContext).performHandshake"), // ends with its own time-out
		goleak.IgnoreAnyFunction("github.com/containers/gvisor-tap-vsock/pkg/services/dns.(*Server).Serve"),
		goleak.IgnoreAnyFunction("github.com/containers/gvisor-tap-vsock/pkg/services/dns.(*Server).ServeTCP"),
		goleak.IgnoreAnyFunction("github.com/containers/gvisor-tap-vsock/pkg/services/dhcp.(*Server).Serve"),
	)
}

var subnet = netip.MustParsePrefix("10.77.0.0/24")

func open(t *testing.T) *lan.LAN {
	t.Helper()
	l, err := lan.New(subnet, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return l
}

// plug connects to the LAN as QEMU does.
func plug(t *testing.T, l *lan.LAN) net.Conn {
	t.Helper()
	connection, err := net.Dial("unix", l.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

// machine is a computer with a TCP stack in the LAN.
func machine(t *testing.T, l *lan.LAN, ip, mac string) *virtualnetwork.VirtualNetwork {
	t.Helper()
	m, err := virtualnetwork.New(&types.Configuration{MTU: 1500, Subnet: subnet.String(), GatewayIP: ip, GatewayMacAddress: mac})
	if err != nil {
		t.Fatal(err)
	}
	connection := plug(t, l)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = m.AcceptQemu(context.Background(), connection)
	}()
	t.Cleanup(func() {
		_ = connection.Close()
		<-ended
	})
	return m
}

// serve answers each connection with what it gets, and a prefix.
func serve(t *testing.T, m *virtualnetwork.VirtualNetwork, address, prefix string) {
	t.Helper()
	listener, err := m.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			content, err := io.ReadAll(c)
			if err != nil {
				t.Error(err)
			}
			if _, err := c.Write(append([]byte(prefix), content...)); err != nil {
				t.Error(err)
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-ended
	})
}

func ask(t *testing.T, l *lan.LAN, address string, question []byte) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := l.DialContext(ctx, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(question); err != nil {
		t.Fatal(err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestDial(t *testing.T) {
	l := open(t)
	serve(t, machine(t, l, "10.77.0.5", "0a:00:00:00:00:05"), "10.77.0.5:80", "five:")
	serve(t, machine(t, l, "10.77.0.6", "0a:00:00:00:00:06"), "10.77.0.6:80", "six:")
	if got := ask(t, l, "10.77.0.6:80", []byte("who")); string(got) != "six:who" {
		t.Errorf("%q", got)
	}
	question := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if got := ask(t, l, "10.77.0.5:80", question); !bytes.Equal(got, append([]byte("five:"), question...)) {
		t.Errorf("%d bytes came back of %d", len(got), len(question))
	}
}

func TestDialRefuses(t *testing.T) {
	l := open(t)
	for _, c := range [][2]string{{"udp", "10.77.0.5:80"}, {"tcp", "10.78.0.5:80"}, {"tcp", "[fd00::1]:80"}, {"tcp", "host:80"}, {"tcp", "10.77.0.5"}} {
		if connection, err := l.DialContext(t.Context(), c[0], c[1]); err == nil {
			_ = connection.Close()
			t.Errorf("dialled %v", c)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := l.DialContext(ctx, "tcp", "10.77.0.99:80"); err == nil || time.Since(began) > time.Second {
		t.Errorf("nobody was reached within %v: %v", time.Since(began), err)
	}
}

func TestCloseEndsConnections(t *testing.T) {
	l := open(t)
	m := machine(t, l, "10.77.0.5", "0a:00:00:00:00:05")
	listener, err := m.Listen("tcp", "10.77.0.5:80")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	c, err := l.DialContext(t.Context(), "tcp", "10.77.0.5:80")
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, func() { _ = l.Close() })
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("read from a machine that is cut off")
	}
	if _, err := l.DialContext(t.Context(), "tcp", "10.77.0.5:80"); err == nil {
		t.Error("dialled in a LAN that is closed")
	}
}

func TestNewRefuses(t *testing.T) {
	for _, s := range []string{"10.0.0.0/8", "10.0.0.0/30", "fd00::/64"} {
		if l, err := lan.New(netip.MustParsePrefix(s), t.TempDir()); err == nil {
			_ = l.Close()
			t.Errorf("%s was taken", s)
		}
	}
	if _, err := lan.New(subnet, "/tmp/"+strings.Repeat("x", 110)); err == nil || !strings.Contains(err.Error(), "folder") {
		t.Errorf("a long path: %v", err)
	}
	if _, err := lan.New(subnet, "/nonexistent"); err == nil {
		t.Error("a folder that is not there")
	}
}

// frame makes what QEMU sends for an Ethernet frame.
func frame(destination, source string, payload string) []byte {
	out := make([]byte, 4, 64)
	for _, mac := range []string{destination, source} {
		a, err := net.ParseMAC(mac)
		if err != nil {
			panic(err)
		}
		out = append(out, a...)
	}
	out = append(out, 0x88, 0xb5) // local experimental
	out = append(out, payload...)
	binary.BigEndian.PutUint32(out, uint32(len(out)-4))
	return out
}

const a, b, c = "0a:00:00:00:00:0a", "0a:00:00:00:00:0b", "0a:00:00:00:00:0c"

func send(t *testing.T, connection net.Conn, frame []byte) {
	t.Helper()
	if _, err := connection.Write(frame); err != nil {
		t.Fatal(err)
	}
}

// receive reads one frame; none within a short time is nil.
func receive(t *testing.T, connection net.Conn) []byte {
	t.Helper()
	if err := connection.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	prefix := make([]byte, 4)
	if _, err := io.ReadFull(connection, prefix); err != nil {
		return nil
	}
	rest := make([]byte, binary.BigEndian.Uint32(prefix))
	if _, err := io.ReadFull(connection, rest); err != nil {
		t.Fatal(err)
	}
	return append(prefix, rest...)
}

func TestSwitch(t *testing.T) {
	l := open(t)
	atA, atB, atC := plug(t, l), plug(t, l), plug(t, l)
	// The connections are accepted one after the other: a frame may come before its listeners.
	for _, listener := range []net.Conn{atB, atC} {
		for send(t, atA, frame("ff:ff:ff:ff:ff:ff", a, "early")); receive(t, listener) == nil; {
			send(t, atA, frame("ff:ff:ff:ff:ff:ff", a, "early"))
		}
	}
	for _, listener := range []net.Conn{atB, atC} {
		for receive(t, listener) != nil { // what was sent more than once
		}
	}
	for _, destination := range []string{"ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01", b} { // nobody knows b yet
		f := frame(destination, a, destination)
		send(t, atA, f)
		for _, listener := range []net.Conn{atB, atC} {
			if got := receive(t, listener); !bytes.Equal(got, f) {
				t.Fatalf("%s: %x", destination, got)
			}
		}
	}
	f := frame(a, b, "known")
	send(t, atB, f)
	if got := receive(t, atA); !bytes.Equal(got, f) {
		t.Errorf("%x", got)
	}
	if got := receive(t, atC); got != nil {
		t.Errorf("a frame for another: %x", got)
	}
	// b moves to the third place.
	send(t, atC, frame("ff:ff:ff:ff:ff:ff", b, "moved"))
	receive(t, atA)
	f = frame(b, a, "after")
	send(t, atA, f)
	if got := receive(t, atC); !bytes.Equal(got, f) {
		t.Errorf("%x", got)
	}
	source := net.HardwareAddr{0x0a, 0, 0, 0, 0, 0x0b}
	if got, want := l.Sent(source), int64(14+len("known")+14+len("moved")); got != want {
		t.Errorf("b has sent %d bytes, want %d", got, want)
	}
	if one, all := l.LargestPacket(source), l.LargestPacket(nil); one != len("known") || all != len("33:33:00:00:00:01") {
		t.Errorf("the largest packet of b had %d bytes, that of all %d", one, all)
	}
}

// A machine that reads nothing, as a paused one, holds up nobody.
func TestDeafMachine(t *testing.T) {
	l := open(t)
	atA, atB, atC := plug(t, l), plug(t, l), plug(t, l)
	for _, c := range []struct {
		at  net.Conn
		mac string
	}{{atA, a}, {atB, b}, {atC, c}} {
		send(t, c.at, frame("ff:ff:ff:ff:ff:ff", c.mac, "hello"))
	}
	time.Sleep(50 * time.Millisecond)
	for receive(t, atC) != nil {
	}
	flood := frame(b, a, strings.Repeat("x", 8<<10))
	if err := atA.SetWriteDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for range 6000 {
		send(t, atA, flood)
	}
	f := frame(c, a, "through")
	send(t, atA, f)
	if got := receive(t, atC); !bytes.Equal(got, f) {
		t.Errorf("%.80x", got)
	}
}

func TestSwitchCutsOffWhatIsNoFrame(t *testing.T) {
	l := open(t)
	for _, bad := range [][]byte{{0, 0, 0, 13}, {0xff, 0xff, 0xff, 0xff}, []byte("GET / HTTP/1.0\r\n\r\n")} {
		c := plug(t, l)
		send(t, c, bad)
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); errors.Is(err, context.DeadlineExceeded) || errors.As(err, new(net.Error)) && err.(net.Error).Timeout() {
			t.Errorf("% x: still connected: %v", bad, err)
		}
	}
}
