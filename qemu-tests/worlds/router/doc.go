// Package router is an IPv6 router in a network of package lan, whose own gateway speaks IPv4 alone. Tests that want IPv6 start one.
//
//	                      ┌──────────── Router ─────────────┐
//	switch (package lan) ─┤ router advertisements (RFC 4861) │
//	  as one more machine │ DHCPv6 (RFC 8415), if asked to   │◀── DialContext
//	                      │ TCP, in user space (gvisor)      │
//	                      └──────────────────────────────────┘
//
// It has the prefix's first address and fe80::1. Its advertisements tell that the prefix is on the link; they give nobody an address
// (no SLAAC), as in networks whose administrators want to know who is who. It forwards nothing.
package router
