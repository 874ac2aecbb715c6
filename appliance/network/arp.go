package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// arpLength is an Ethernet header and an ARP message for IPv4 (RFC 826) in bytes.
const arpLength = 14 + 28

// arpRequest is the operation of a question; an answer has 2.
const arpRequest = 1

var broadcastMAC = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// arpMessage is an ARP message for IPv4 over Ethernet.
type arpMessage struct {
	operation        uint16
	senderMAC        mac
	sender           netip.Addr // 0.0.0.0 in a probe
	targetMAC        mac
	target           netip.Addr
	destinationFrame mac // of the Ethernet frame
}

// frame encodes the message as an Ethernet frame.
func (m arpMessage) frame() []byte {
	b := make([]byte, 0, arpLength)
	b = append(b, m.destinationFrame[:]...)
	b = append(b, m.senderMAC[:]...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_ARP)
	b = binary.BigEndian.AppendUint16(b, unix.ARPHRD_ETHER)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	b = append(b, 6, 4) // lengths of the addresses
	b = binary.BigEndian.AppendUint16(b, m.operation)
	b = append(b, m.senderMAC[:]...)
	b = append(b, m.sender.AsSlice()...)
	b = append(b, m.targetMAC[:]...)
	return append(b, m.target.AsSlice()...)
}

// parseARP decodes a frame, which may be padded; ok is false for anything but an ARP message for IPv4 over Ethernet.
func parseARP(frame []byte) (m arpMessage, ok bool) {
	if len(frame) < arpLength {
		return m, false
	}
	head := frame[12:20]
	if [8]byte(head) != [8]byte{0x08, 0x06, 0, unix.ARPHRD_ETHER, 0x08, 0x00, 6, 4} {
		return m, false
	}
	return arpMessage{
		destinationFrame: mac(frame[0:6]),
		operation:        binary.BigEndian.Uint16(frame[20:22]),
		senderMAC:        mac(frame[22:28]), sender: netip.AddrFrom4([4]byte(frame[28:32])),
		targetMAC: mac(frame[32:38]), target: netip.AddrFrom4([4]byte(frame[38:42])),
	}, true
}

// claims tells whether the message shows that another machine than own uses address, or is about to: one that probes for it at the
// same moment counts too (RFC 5227 §2.1.1).
func (m arpMessage) claims(address netip.Addr, own mac) bool {
	if m.senderMAC == own {
		return false
	}
	return m.sender == address || m.operation == arpRequest && m.sender.IsUnspecified() && m.target == address
}

// arpSocket sends and receives ARP messages on one interface.
type arpSocket struct{ file *os.File }

func openARP(index int) (*arpSocket, error) {
	protocol := bigEndian(unix.ETH_P_ARP)
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(protocol))
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w; the image needs the kernel's af_packet", err)
	}
	if err := unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: index}); err != nil {
		return nil, fmt.Errorf("bind the packet socket: %w", errors.Join(err, unix.Close(socket)))
	}
	return &arpSocket{os.NewFile(uintptr(socket), "arp")}, nil
}

// bigEndian gives a number the byte order of the wire, as packet(7) wants protocols.
func bigEndian(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}

func (s *arpSocket) close() { _ = s.file.Close() } // nothing is buffered

func (s *arpSocket) send(m arpMessage) error {
	if _, err := s.file.Write(m.frame()); err != nil {
		return fmt.Errorf("send an ARP message: %w", err)
	}
	return nil
}

// receive returns the next message that claims address for another machine than own. It ends with os.ErrDeadlineExceeded, or an
// error of the interface, such as ENETDOWN.
func (s *arpSocket) receive(address netip.Addr, own mac) (arpMessage, error) {
	buffer := make([]byte, 256)
	for {
		size, err := s.file.Read(buffer)
		if err != nil {
			return arpMessage{}, err
		}
		if m, ok := parseARP(buffer[:size]); ok && m.claims(address, own) {
			return m, nil
		}
	}
}

// probes is how often another owner of an address is asked for (RFC 5227: PROBE_NUM).
const probes = 3

// probe asks whether another machine has the address, and waits for an interval after each question.
func (s *arpSocket) probe(ctx context.Context, own mac, address netip.Addr, interval time.Duration) (owner mac, taken bool, err error) {
	stop := context.AfterFunc(ctx, func() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) }) // fails on a closed socket alone
	defer stop()
	question := arpMessage{
		operation: arpRequest, senderMAC: own, sender: netip.IPv4Unspecified(), target: address, destinationFrame: broadcastMAC,
	}
	for range probes {
		if err := s.file.SetReadDeadline(time.Now().Add(interval)); err != nil {
			return owner, false, fmt.Errorf("wait for ARP messages: %w", err)
		}
		if ctx.Err() != nil { // after the deadline was set: whichever came last, it is seen
			return owner, false, context.Cause(ctx)
		}
		if err := s.send(question); err != nil {
			return owner, false, err
		}
		m, err := s.receive(address, own)
		if err == nil {
			return m.senderMAC, true, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return owner, false, fmt.Errorf("receive ARP messages: %w", err)
		}
	}
	return owner, false, nil
}

// announce tells everybody who has the address (RFC 5227 §2.3).
func (s *arpSocket) announce(own mac, address netip.Addr) error {
	return s.send(arpMessage{operation: arpRequest, senderMAC: own, sender: address, target: address, destinationFrame: broadcastMAC})
}
