// Package network brings up the network of a delegate's machine and watches over it: one Ethernet interface, one address, one default
// route. It is the appliance.Network of real machines and needs to be their only configurer.
//
//	Up:    interface ─▶ link ─▶ MTU ─▶ address ─────────────────────────────────────────▶ default route
//	                                    ├ IPv4: probe for another owner (RFC 5227), announce
//	                                    ├ IPv6: the kernel's duplicate address detection (RFC 4862)
//	                                    └ DHCP: lease (RFC 2131, RFC 8415), then as above
//	Watch: gateway, or IPv6 router (once) · link · another machine with our IPv4 address · lease ─▶ events
//
// A wrong address in a pool takes another machine's connections away, so an IPv4 address is looked for before it is used, in half a
// second instead of RFC 5227's seven: a delegate is to be ready within five seconds of its start, and what the short probe
// misses, Watch still finds. A gateway that does not answer is a warning alone, as all peers may be in the same network. With
// DHCPv6 the kernel makes the routes itself, from the router's advertisement; that none has come is a warning too.
//
// For tests the configuration may name a line, which the kernel then imitates on what this machine sends (sch_netem).
//
// Everything goes through netlink and packet sockets; no file in /proc or /sys is written, so the tests run in a network namespace.
package network
