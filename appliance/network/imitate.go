package network

import (
	"fmt"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/understudy-dr/understudy/netproto/line"
)

const (
	// frameHeader is what a packet has on the line besides its MTU, in bytes: the kernel counts an Ethernet header.
	frameHeader = 14
	// leastQueue is how many packets wait at least: netem's default. Many are much shorter than the MTU.
	leastQueue = 1000
)

// imitate has the kernel send at most at the line's rate, and everything half a round trip later. Two machines that do so have the
// line between them. The queue holds what the line does: a netem that is left to its default drops packets beyond the 1000th.
func (n *Network) imitate(s line.Spec) error {
	if n.loadModule != nil {
		if err := n.loadModule("sch_netem"); err != nil {
			return err
		}
	}
	l, err := netlink.LinkByIndex(n.link.index)
	if err != nil {
		return err
	}
	// The queue is counted in packets, of which one may stand for 64 KiB that the interface divides later.
	if err := netlink.LinkSetGSOMaxSegs(l, 1); err != nil {
		return fmt.Errorf("send no packets to be divided: %w", err)
	}
	packets := s.Capacity() / int64(l.Attrs().MTU+frameHeader)
	queue := netlink.NewNetem(netlink.QdiscAttrs{LinkIndex: n.link.index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		netlink.NetemQdiscAttrs{
			Latency: uint32(s.RTT / 2 / time.Microsecond), Rate64: uint64(s.Rate), Limit: uint32(max(packets, leastQueue)),
		})
	if err := netlink.QdiscReplace(queue); err != nil {
		return fmt.Errorf("netem: %w", err)
	}
	return nil
}
