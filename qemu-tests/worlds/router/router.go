package router

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	nic       = 1
	queueSize = 1024     // frames on their way to the switch
	maxFrame  = 64 << 10 // bytes of an Ethernet frame
)

var (
	linkLocal = netip.MustParseAddr("fe80::1")
	// ownMAC is locally administered.
	ownMAC = tcpip.LinkAddress([]byte{0x0a, 0x75, 0x73, 0x00, 0x06, 0x01})
)

// Options of New.
type Options struct {
	Prefix netip.Prefix // of the network, IPv6; the router has its first address
	MTU    int          // in bytes; default 1500
	// FirstLease is what the first DHCPv6 client gets, the following ones count up; invalid: nobody serves DHCPv6.
	FirstLease netip.Addr
}

// Router is a router. Its methods may be called concurrently.
type Router struct {
	options    Options
	connection net.Conn // to the switch
	endpoint   *channel.Endpoint
	stack      *stack.Stack
	work       sync.WaitGroup
	life       context.Context
	end        context.CancelFunc
	once       sync.Once
}

// New connects a router to the network whose unix socket is given, as LAN.Socket of package lan does.
func New(socket string, o Options) (*Router, error) {
	if o.MTU == 0 {
		o.MTU = 1500
	}
	if !o.Prefix.Addr().Is6() || o.FirstLease.IsValid() && !o.Prefix.Contains(o.FirstLease) {
		return nil, fmt.Errorf("router: prefix %s, first lease %s: IPv6 is needed, and a lease within the prefix", o.Prefix, o.FirstLease)
	}
	o.Prefix = o.Prefix.Masked()
	r := &Router{options: o, endpoint: channel.New(queueSize, uint32(o.MTU)+header.EthernetMinimumSize, ownMAC)}
	r.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol6},
	})
	if err := r.configure(); err != nil {
		r.stack.Destroy()
		return nil, fmt.Errorf("router: %w", err)
	}
	var err error
	if r.connection, err = net.Dial("unix", socket); err != nil {
		r.stack.Destroy()
		return nil, fmt.Errorf("router: %w", err)
	}
	r.life, r.end = context.WithCancel(context.Background())
	r.work.Go(r.receive)
	r.work.Go(r.send)
	if o.FirstLease.IsValid() {
		server, err := r.listenDHCP()
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("router: DHCPv6: %w", err)
		}
		r.work.Go(server.serve)
	}
	return r, nil
}

// Address is the router's own, of which it makes its connections.
func (r *Router) Address() netip.Addr { return r.options.Prefix.Addr().Next() }

func (r *Router) configure() error {
	if err := r.stack.CreateNIC(nic, ethernet.New(r.endpoint)); err != nil {
		return errors.New(err.String())
	}
	for _, a := range []netip.Prefix{netip.PrefixFrom(linkLocal, 64), netip.PrefixFrom(r.Address(), r.options.Prefix.Bits())} {
		address := tcpip.ProtocolAddress{
			Protocol:          ipv6.ProtocolNumber,
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom16(a.Addr().As16()), PrefixLen: a.Bits()},
		}
		if err := r.stack.AddProtocolAddress(nic, address, stack.AddressProperties{}); err != nil {
			return errors.New(err.String())
		}
	}
	r.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv6EmptySubnet, NIC: nic}})
	return nil
}

// DialContext connects to a machine of the network, by "tcp" and "[address]:port".
func (r *Router) DialContext(ctx context.Context, network, target string) (net.Conn, error) {
	destination, err := netip.ParseAddrPort(target)
	if err != nil || network != "tcp" || !r.options.Prefix.Contains(destination.Addr()) {
		return nil, fmt.Errorf("router: dial %s %s: only TCP to [address]:port in %s is there", network, target, r.options.Prefix)
	}
	to := tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFrom16(destination.Addr().As16()), Port: destination.Port()}
	c, err := gonet.DialContextTCP(ctx, r.stack, to, ipv6.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("router: dial %s: %w", target, err)
	}
	return connection{c}, nil
}

// connection ends a Read under way when it is closed, which gvisor's own Close does not.
type connection struct{ *gonet.TCPConn }

func (c connection) Close() error {
	return errors.Join(c.SetDeadline(time.Unix(1, 0)), c.TCPConn.Close())
}

// receive gives the stack what comes from the switch, and answers those who look for routers.
func (r *Router) receive() {
	defer r.end()
	for {
		frame, err := readFrame(r.connection)
		if err != nil {
			return // the switch, or this router, has ended
		}
		if r.solicits(frame) {
			r.advertise()
		}
		packet := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
		r.endpoint.InjectInbound(0, packet)
		packet.DecRef()
	}
}

// readFrame reads an Ethernet frame behind its length, in QEMU's way.
func readFrame(reader io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(reader, length[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size > maxFrame {
		return nil, fmt.Errorf("a frame of %d bytes", size)
	}
	frame := make([]byte, size)
	_, err := io.ReadFull(reader, frame)
	return frame, err
}

// send gives the switch what comes from the stack. advertise queues there too, so there is one writer.
func (r *Router) send() {
	for {
		packet := r.endpoint.ReadContext(r.life)
		if packet == nil {
			return
		}
		view := packet.ToView()
		packet.DecRef()
		frame := binary.BigEndian.AppendUint32(nil, uint32(view.Size()))
		frame = append(frame, view.AsSlice()...)
		view.Release()
		if _, err := r.connection.Write(frame); err != nil {
			return // as above
		}
	}
}

// Close cuts the router off and waits for its goroutines.
func (r *Router) Close() {
	r.once.Do(func() {
		r.end()
		_ = r.connection.Close() // nothing is lost that anybody waits for
		r.stack.Destroy()        // ends the DHCP server's read
		r.work.Wait()
		r.endpoint.Close()
	})
}
