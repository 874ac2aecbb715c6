package lan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/containers/gvisor-tap-vsock/pkg/virtualnetwork"
)

const (
	// maxSocketPath is the length of sockaddr_un's path without its end, in bytes.
	maxSocketPath = 107
	mtu           = 1500 // of the gateway; machines may use more among themselves
	// acceptPause gives other work time to return file descriptors: nothing else makes Accept fail for a while.
	acceptPause = 50 * time.Millisecond
)

// gatewayMAC is locally administered.
var gatewayMAC = address{0x0a, 0x75, 0x73, 0x00, 0x00, 0x01}

// LAN is a network. All methods may be called concurrently.
type LAN struct {
	subnet   netip.Prefix
	network  *virtualnetwork.VirtualNetwork
	fabric   *fabric
	listener net.Listener
	uplink   net.Conn // the switch's end of the gateway's cable
	life     context.Context
	end      context.CancelFunc
	work     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	dialed map[*connection]struct{}
}

// New makes a network with an IPv4 subnet of 8 to 4096 addresses. Its unix socket stands in dir, which needs a short path.
func New(subnet netip.Prefix, dir string) (*LAN, error) {
	subnet = subnet.Masked()
	if !subnet.Addr().Is4() || subnet.Bits() < 20 || subnet.Bits() > 29 {
		return nil, fmt.Errorf("lan: subnet %s: an IPv4 one of /20 to /29 is needed", subnet)
	}
	socket := filepath.Join(dir, "lan")
	if len(socket) > maxSocketPath {
		return nil, fmt.Errorf("lan: %s has %d bytes, and a unix socket's path at most %d: choose a folder nearer to the root",
			socket, len(socket), maxSocketPath)
	}
	network, err := virtualnetwork.New(configuration(subnet))
	if err != nil {
		return nil, fmt.Errorf("lan: %w", err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("lan: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &LAN{
		subnet: subnet, network: network, fabric: newFabric(gatewayMAC), listener: listener, life: ctx, end: cancel,
		dialed: map[*connection]struct{}{},
	}
	var end net.Conn
	l.uplink, end = net.Pipe()
	l.fabric.attach(l.uplink, true)
	l.work.Go(func() { _ = l.network.AcceptQemu(ctx, end) }) // nil: Close ends it
	l.work.Go(l.accept)
	return l, nil
}

func configuration(subnet netip.Prefix) *types.Configuration {
	gateway := subnet.Addr().Next()
	// Leases that are never asked for keep the DHCP server from the addresses that belong to machines already.
	static := map[string]string{}
	half := 1 << (32 - subnet.Bits() - 1)
	for a, n := gateway.Next(), 2; n < half; a, n = a.Next(), n+1 {
		static[a.String()] = "static " + a.String()
	}
	return &types.Configuration{
		MTU: mtu, Subnet: subnet.String(), GatewayIP: gateway.String(), GatewayMacAddress: net.HardwareAddr(gatewayMAC[:]).String(),
		DHCPStaticLeases: static,
	}
}

func (l *LAN) accept() {
	for {
		connection, err := l.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(acceptPause)
			continue
		}
		l.fabric.attach(connection, false)
	}
}

// Socket is the path of the unix socket, for QEMU's -netdev stream,id=n0,server=off,addr.type=unix,addr.path=….
func (l *LAN) Socket() string { return l.listener.Addr().String() }

// Subnet is the network's range. Gateway is its first address, which answers ARP and ping.
func (l *LAN) Subnet() netip.Prefix { return l.subnet }
func (l *LAN) Gateway() netip.Addr  { return l.subnet.Addr().Next() }

// LargestPacket is the size in bytes of the largest packet, an Ethernet frame without its header, that a machine has sent, or any
// machine but the gateway when mac is nil.
func (l *LAN) LargestPacket(mac net.HardwareAddr) int {
	l.fabric.mu.Lock()
	defer l.fabric.mu.Unlock()
	if mac != nil {
		return l.fabric.largest[address(mac)]
	}
	largest := 0
	for source, size := range l.fabric.largest {
		if source != gatewayMAC {
			largest = max(largest, size)
		}
	}
	return largest
}

// Sent is how many bytes of Ethernet frames a machine has sent.
func (l *LAN) Sent(mac net.HardwareAddr) int64 {
	l.fabric.mu.Lock()
	defer l.fabric.mu.Unlock()
	return l.fabric.sent[address(mac)]
}

// DialContext connects to a machine, by "tcp" and "address:port" with an IPv4 address of the subnet. The connection ends with
// the LAN.
func (l *LAN) DialContext(ctx context.Context, network, target string) (net.Conn, error) {
	destination, err := netip.ParseAddrPort(target)
	switch {
	case network != "tcp" && network != "tcp4":
		return nil, fmt.Errorf("lan: dial %s %s: only TCP over IPv4 is there", network, target)
	case err != nil:
		return nil, fmt.Errorf("lan: dial %s: %w", target, err)
	case !l.subnet.Contains(destination.Addr()):
		return nil, fmt.Errorf("lan: dial %s: it is not in the subnet %s", target, l.subnet)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.life, cancel)()
	raw, err := l.network.DialContextTCP(ctx, target)
	if err != nil && l.life.Err() != nil {
		err = net.ErrClosed
	}
	if err != nil {
		return nil, fmt.Errorf("lan: dial %s: %w", target, err)
	}
	c := &connection{Conn: raw, lan: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = raw.Close() // nothing was written
		return nil, fmt.Errorf("lan: dial %s: %w", target, net.ErrClosed)
	}
	l.dialed[c] = struct{}{}
	return c, nil
}

// connection is a dialled one, known to its LAN while it is open.
type connection struct {
	net.Conn
	lan *LAN
}

func (c *connection) Close() error {
	c.lan.mu.Lock()
	delete(c.lan.dialed, c)
	c.lan.mu.Unlock()
	return c.end()
}

// end closes. Without a deadline a Read under way would wait on: gvisor's Close is that of one side alone.
func (c *connection) end() error {
	return errors.Join(c.SetDeadline(time.Unix(1, 0)), c.Conn.Close())
}

// CloseWrite ends this side of the conversation.
func (c *connection) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// Close cuts every machine off and waits for the LAN's goroutines.
func (l *LAN) Close() error {
	l.mu.Lock()
	l.closed = true
	dialed := l.dialed
	l.dialed = nil
	l.mu.Unlock()
	for c := range dialed {
		_ = c.end() // nobody shall wait for a machine that is cut off
	}
	err := l.listener.Close()
	// The gateway looks at its context after a frame, and complains to standard error when its cable is cut.
	l.end()
	_, _ = l.uplink.Write(append([]byte{3: minFrame}, make([]byte, minFrame)...)) // fails when it is gone already
	l.work.Wait()
	l.fabric.close()
	if errors.Is(err, net.ErrClosed) { // a second Close
		return nil
	}
	return err
}
