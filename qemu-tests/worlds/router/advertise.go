package router

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Numbers of RFC 4861, §4.2, §4.6.
const (
	flagManaged         = 0x80 // addresses come by DHCPv6
	flagOnLink          = 0x80 // the prefix is on this link
	optionSourceAddress = 1
	optionPrefix        = 3
	routerLifetime      = 1800  // seconds
	prefixLifetime      = 86400 // seconds
	maxHops             = 255   // proves that nobody forwarded it
)

var allNodes = netip.MustParseAddr("ff02::1")

// solicits tells whether an Ethernet frame asks who the routers are.
func (r *Router) solicits(frame []byte) bool {
	const fixed = header.EthernetMinimumSize + header.IPv6MinimumSize
	return len(frame) > fixed && header.Ethernet(frame).Type() == ipv6.ProtocolNumber &&
		header.IPv6(frame[header.EthernetMinimumSize:]).NextHeader() == uint8(header.ICMPv6ProtocolNumber) &&
		header.ICMPv6(frame[fixed:]).Type() == header.ICMPv6RouterSolicit
}

// advertise sends a router advertisement to all machines.
func (r *Router) advertise() {
	message := r.advertisement()
	destination := tcpip.AddrFrom16(allNodes.As16())
	source := tcpip.AddrFrom16(linkLocal.As16())
	header.ICMPv6(message).SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: message, Src: source, Dst: destination}))

	frame := make([]byte, header.EthernetMinimumSize+header.IPv6MinimumSize, header.EthernetMinimumSize+header.IPv6MinimumSize+len(message))
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: ownMAC, DstAddr: header.EthernetAddressFromMulticastIPv6Address(destination), Type: ipv6.ProtocolNumber,
	})
	header.IPv6(frame[header.EthernetMinimumSize:]).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(message)), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: maxHops, SrcAddr: source, DstAddr: destination,
	})
	packet := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(append(frame, message...))})
	defer packet.DecRef()
	var list stack.PacketBufferList
	list.PushBack(packet)
	_, _ = r.endpoint.WritePackets(list) // a full queue drops it, as a busy line would; machines ask again
}

// advertisement is the ICMPv6 message without its checksum.
func (r *Router) advertisement() []byte {
	m := []byte{byte(header.ICMPv6RouterAdvert), 0, 0, 0, 64, 0}
	if r.options.FirstLease.IsValid() {
		m[5] = flagManaged
	}
	m = binary.BigEndian.AppendUint16(m, routerLifetime)
	m = append(m, make([]byte, 8)...) // reachable and retransmission time: not told
	m = append(m, optionSourceAddress, 1)
	m = append(m, ownMAC...)
	m = append(m, optionPrefix, 4, byte(r.options.Prefix.Bits()), flagOnLink)
	m = binary.BigEndian.AppendUint32(m, prefixLifetime) // valid
	m = binary.BigEndian.AppendUint32(m, prefixLifetime) // preferred
	m = append(m, 0, 0, 0, 0)
	return append(m, r.options.Prefix.Addr().AsSlice()...)
}
