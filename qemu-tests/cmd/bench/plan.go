package main

import (
	"strings"

	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/peers"
	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/report"
)

// trustedSuffix marks the cases in which the sender has a manifest of the target. Those without it are the ones that do the same work
// as a peer, which knows nothing of the target either.
const trustedSuffix = "-trusted"

// workload is one workload on one line: a case, and with trust a second one.
type workload struct {
	name  string
	line  peers.Line
	trust bool // is measured with trust too
	peers []peers.Tool
}

// cases names what is measured.
func (w workload) cases() []string {
	names := []string{w.name + "/" + w.line.Name}
	if w.trust {
		names = append(names, w.name+trustedSuffix+"/"+w.line.Name)
	}
	return names
}

// plan lists what is measured on loopback, and what where the line matters.
func plan(thin peers.Line) []workload {
	changes := []string{"unchanged", "changed1", "changed1-clustered", "changed10", "moved", "db"}
	copies := []string{"changed100", "incompressible"}
	var all []workload
	for _, name := range changes {
		all = append(all, workload{name: name, line: peers.Loopback(), trust: true, peers: []peers.Tool{peers.Rsync("rsync")}})
	}
	for _, name := range copies {
		all = append(all, workload{name: name, line: peers.Loopback(),
			peers: []peers.Tool{peers.Rsync("rsync"), peers.NbdcopyTLS(), peers.Nbdcopy(), peers.QemuImg(), peers.Dd()}})
	}
	for _, name := range changes {
		all = append(all, workload{name: name, line: thin, trust: true, peers: []peers.Tool{peers.Rsync("rsync-z", "-z")}})
	}
	for _, name := range copies {
		all = append(all, workload{name: name, line: thin, peers: []peers.Tool{peers.Rsync("rsync-z", "-z")}})
	}
	// What does not compress takes a tool that cannot compress no longer than the others.
	all[len(all)-1].peers = append(all[len(all)-1].peers, peers.NbdcopyTLS())
	return all
}

// allowed is our wall time over a tool's that the budget permits (design §4); nil where it says nothing. A tool that does the same work
// must never be faster.
func allowed(r report.Row) *float64 {
	workload, trusted := strings.CutSuffix(r.Workload(), trustedSuffix)
	onePercent := workload == "changed1" || workload == "changed1-clustered"
	fullCopy := workload == "changed100" || workload == "incompressible"
	loopback := r.Line() == "loopback"
	switch {
	case r.Tool == report.Understudy:
		return new(1.0)
	case r.Tool == report.Limit && loopback && workload == "unchanged":
		return new(1.15)
	case r.Tool == report.Limit && loopback && onePercent:
		return new(1.2)
	case r.Tool == "rsync" && onePercent && trusted:
		return new(0.55)
	case r.Tool == "rsync" && onePercent:
		return new(1.05)
	case r.Tool == "rsync" && fullCopy:
		return new(1 / 3.0)
	case r.Tool == "nbdcopy-tls" && loopback:
		return new(1 / 1.8)
	case r.Tool == "nbdcopy" && loopback:
		return new(1 / 0.9)
	case r.SameWork, r.Tool == "nbdcopy-tls", r.Tool == "qemu-img":
		return new(1.0)
	}
	return nil
}

// absent is the peers that are left out.
var absent = []report.Fact{
	{Name: "btrfs send, zfs send", Value: "they send what their own snapshots know to have changed, between file systems of their kind, and read no disk of another; zfs is no part of Debian proper"},
	{Name: "bscp, blocksync", Value: "Debian has no package of them"},
	{Name: "rsync --write-devices", Value: "the daemon writes files here, by the same code"},
}
