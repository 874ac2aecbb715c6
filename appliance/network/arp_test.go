package network_test

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/understudy-dr/understudy/appliance/network"
)

var (
	ownMAC, otherMAC = [6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 2}
	ours, another    = netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("10.77.0.3")
	nobody           = netip.IPv4Unspecified()
)

// Golden bytes: RFC 826 in an Ethernet frame.
func TestARPFrame(t *testing.T) {
	const want = "ffffffffffff" + "020000000001" + "0806" + "0001" + "0800" + "06" + "04" + "0001" +
		"020000000001" + "00000000" + "000000000000" + "0a4d0002"
	if got := hex.EncodeToString(network.ARPFrame(ownMAC, nobody, ours)); got != want {
		t.Errorf("the probe is\n%s, want\n%s", got, want)
	}
}

func TestARPClaims(t *testing.T) {
	reply := network.ARPFrame(otherMAC, ours, another)
	reply[21] = 2
	foreign := network.ARPFrame(otherMAC, ours, another)
	foreign[15] = 6 // another kind of network
	for name, test := range map[string]struct {
		frame      []byte
		claims, ok bool
	}{
		"announcement of another": {network.ARPFrame(otherMAC, ours, ours), true, true},
		"question of another":     {network.ARPFrame(otherMAC, ours, another), true, true},
		"answer of another":       {reply, true, true},
		"probe of another":        {network.ARPFrame(otherMAC, nobody, ours), true, true},
		"our own":                 {network.ARPFrame(ownMAC, ours, ours), false, true},
		"our own probe":           {network.ARPFrame(ownMAC, nobody, ours), false, true},
		"question for us":         {network.ARPFrame(otherMAC, another, ours), false, true},
		"others":                  {network.ARPFrame(otherMAC, another, another), false, true},
		"padded":                  {append(network.ARPFrame(otherMAC, ours, ours), make([]byte, 18)...), true, true},
		"short":                   {network.ARPFrame(otherMAC, ours, ours)[:41], false, false},
		"not Ethernet":            {foreign, false, false},
		"empty":                   {nil, false, false},
	} {
		if claims, ok := network.ClaimsARP(test.frame, ours, ownMAC); claims != test.claims || ok != test.ok {
			t.Errorf("%s: claims %v, ok %v, want %v, %v", name, claims, ok, test.claims, test.ok)
		}
	}
}

func FuzzARP(f *testing.F) {
	f.Add(network.ARPFrame(otherMAC, ours, another))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, frame []byte) {
		again, ok := network.ReencodeARP(frame)
		if !ok {
			return
		}
		// The Ethernet header's sender, which says nothing, is not kept.
		if !bytes.Equal(again[:6], frame[:6]) || !bytes.Equal(again[12:], frame[12:42]) {
			t.Errorf("%x became %x", frame, again)
		}
	})
}
