// Package lan is the network of the machines of the worlds qemu and xen: a switch in this process, without root and without
// any port on the host but one unix socket.
//
//	QEMU -netdev stream --+
//	QEMU -netdev stream --+-- unix socket --> switch --- gateway (gvisor-tap-vsock) <--- DialContext
//	QEMU -netdev stream --+
//
// The switch is our own: it learns addresses, floods what it does not know, multicast too (IPv6 between machines needs it),
// and drops frames for a machine that does not read them, so that a paused one holds up nobody. The gateway is a network
// stack in user space with the subnet's first address: through it this process dials machines, and it serves DHCP from
// the upper half of the subnet; the lower half is for static addresses. It speaks IPv4 alone.
//
// What a machine sends to other networks through the gateway, the gateway dials from this computer, as any machine of its
// user could.
//
// Close leaves no goroutine of this package. Those of gvisor-tap-vsock cannot be ended: a process keeps about ten for each
// LAN that it has had, without work.
package lan
