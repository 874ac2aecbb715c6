package network_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/appliance"
)

// insideVariable is set in the copy of the test that runs in namespaces of its own.
const insideVariable = "UNDERSTUDY_NETWORK_TEST"

// TestMain runs the tests in a user namespace, where an ordinary user is root, with a network namespace of its own: the tests
// configure its interfaces, and the machine's stay as they are.
func TestMain(m *testing.M) {
	if os.Getenv(insideVariable) != "" {
		goleak.VerifyTestMain(m)
		return
	}
	copied := exec.Command("/proc/self/exe", os.Args[1:]...)
	copied.Env = append(os.Environ(), insideVariable+"=1")
	copied.Stdin, copied.Stdout, copied.Stderr = os.Stdin, os.Stdout, os.Stderr
	copied.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	err := copied.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	}
	fmt.Fprintf(os.Stderr, "these tests need a network namespace: allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, "+
		"kernel.apparmor_restrict_unprivileged_userns=0): %v\n", err)
	os.Exit(1)
}

const within = 10 * time.Second

// neighbour is another machine on the cable: a thread in a network namespace of its own. Our end of the cable is 'ours'.
type neighbour struct {
	t     *testing.T
	calls chan func()
	ours  string
	index int     // of their end
	mac   [6]byte // of their end
}

const theirEnd = "peer0"

// connect makes a cable with both ends; theirs is up.
func connect(t *testing.T) *neighbour {
	t.Helper()
	n := &neighbour{t: t, calls: make(chan func()), ours: "vif0"}
	ready := make(chan error, 1)
	ended := make(chan struct{})
	namespace := -1
	go func() {
		defer close(ended)
		runtime.LockOSThread() // and never unlocked: the thread goes with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			namespace, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		ready <- err
		for call := range n.calls {
			call()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = netlink.LinkDel(n.link()) // takes both ends with it; the test may have done so
		close(n.calls)
		<-ended
		_ = unix.Close(namespace)
	})
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: n.ours}, PeerName: theirEnd, PeerNamespace: netlink.NsFd(namespace)}
	if err := netlink.LinkAdd(cable); err != nil {
		t.Fatal(err)
	}
	// So that the kernel takes less than its three seconds to give up on a neighbour, and does not wait for up to a second before it
	// looks for another owner of an IPv6 address.
	n.tune("ipv4/neigh", "retrans_time_ms", "100")
	n.tune("ipv6/neigh", "retrans_time_ms", "100")
	n.tune("ipv6/conf", "router_solicitation_delay", "0")
	n.do(func() error {
		end, err := netlink.LinkByName(theirEnd)
		if err != nil {
			return err
		}
		n.index, n.mac = end.Attrs().Index, [6]byte(end.Attrs().HardwareAddr)
		return netlink.LinkSetUp(end)
	})
	return n
}

// tune changes how patient the kernel is on our end; where it does not let us, tests are slower.
func (n *neighbour) tune(directory, name, value string) {
	_ = os.WriteFile(filepath.Join("/proc/sys/net", directory, n.ours, name), []byte(value), 0)
}

// do runs f on the neighbour's machine.
func (n *neighbour) do(f func() error) {
	n.t.Helper()
	done := make(chan error, 1)
	n.calls <- func() { done <- f() }
	if err := <-done; err != nil {
		n.t.Fatal(err)
	}
}

func (n *neighbour) setLink(up bool) {
	n.t.Helper()
	n.do(func() error {
		end, err := netlink.LinkByName(theirEnd)
		if err != nil {
			return err
		}
		if up {
			return netlink.LinkSetUp(end)
		}
		return netlink.LinkSetDown(end)
	})
}

// give gives the neighbour an address, and waits until it may use it.
func (n *neighbour) give(prefix string) {
	n.t.Helper()
	n.do(func() error {
		end, err := netlink.LinkByName(theirEnd)
		if err != nil {
			return err
		}
		address, err := netlink.ParseAddr(prefix)
		if err != nil {
			return err
		}
		address.Flags = unix.IFA_F_NODAD
		return netlink.AddrAdd(end, address)
	})
}

// link is our end.
func (n *neighbour) link() netlink.Link {
	n.t.Helper()
	l, err := netlink.LinkByName(n.ours)
	if err != nil {
		return &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: n.ours}}
	}
	return l
}

// addresses are those of our end, but for link-local ones.
func (n *neighbour) addresses() (all []netip.Prefix) {
	n.t.Helper()
	list, err := netlink.AddrList(n.link(), netlink.FAMILY_ALL)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, a := range list {
		prefix := netip.MustParsePrefix(a.IPNet.String())
		if !prefix.Addr().IsLinkLocalUnicast() {
			all = append(all, prefix)
		}
	}
	return all
}

// gateways are those of our default routes.
func (n *neighbour) gateways() (all []string) {
	n.t.Helper()
	routes, err := netlink.RouteList(n.link(), netlink.FAMILY_ALL)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, r := range routes {
		if r.Gw != nil && (r.Dst == nil || r.Dst.IP.IsUnspecified()) {
			all = append(all, r.Gw.String())
		}
	}
	return all
}

func static(address, gateway string, mtu int) appliance.NetworkSpec {
	spec := appliance.NetworkSpec{Address: netip.MustParsePrefix(address), MTU: mtu}
	if gateway != "" {
		spec.Gateway = netip.MustParseAddr(gateway)
	}
	return spec
}
