package network

import (
	"net/netip"
	"time"
)

// NewHasty is New with less patience.
func NewHasty() *Network {
	return &Network{timing: timing{
		interfaceWait: 300 * time.Millisecond, probeInterval: 60 * time.Millisecond, defend: 300 * time.Millisecond,
		dhcpTry: 300 * time.Millisecond, dhcpTries: 2, leasePause: 20 * time.Millisecond, declinePause: 20 * time.Millisecond, routerWait: 100 * time.Millisecond,
		look: 20 * time.Millisecond,
	}}
}

// ErrRefused is a server's no to a renewal.
var ErrRefused = errRefused

// ARPFrame is the question of a machine for target, as an Ethernet frame. Without a sender it is a probe.
func ARPFrame(sender [6]byte, address, target netip.Addr) []byte {
	return arpMessage{operation: arpRequest, senderMAC: sender, sender: address, target: target, destinationFrame: broadcastMAC}.frame()
}

// ClaimsARP decodes a frame and tells whether it claims address for another machine than own.
func ClaimsARP(frame []byte, address netip.Addr, own [6]byte) (claims, ok bool) {
	m, ok := parseARP(frame)
	return ok && m.claims(address, own), ok
}

// ReencodeARP decodes and encodes a frame.
func ReencodeARP(frame []byte) ([]byte, bool) {
	m, ok := parseARP(frame)
	if !ok {
		return nil, false
	}
	return m.frame(), true
}

// AnnounceOn sends an announcement from an interface.
func AnnounceOn(index int, sender [6]byte, address netip.Addr) error {
	s, err := openARP(index)
	if err != nil {
		return err
	}
	defer s.close()
	return s.announce(sender, address)
}
