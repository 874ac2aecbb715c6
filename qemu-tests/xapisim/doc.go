// Package xapisim is a simulated pool: a real HTTPS server that speaks the XenAPI, with real disk files behind its VDIs.
//
// It exists so that the whole product, and clients that others wrote, can be tried in seconds and without a hypervisor.
// It is an independent judge: it imports nothing of the product's client, is strict where xapi is strict and answers
// with the error codes of xapi (xapi-facts §1 to §8, xapi-observed). It is also the ground on which wider parts of the
// XenAPI are to stand, so almost everything in it is driven by tables:
//
//	       POST /jsonrpc
//	            |
//	 server -> envelope -> dispatch ----------------------------+
//	(a listener (rpc.go)   arity, session, arguments, faults    |
//	 a host)                    |                               v
//	                            |                     Async.*: tasks (task.go)
//	                            v
//	     hand-written calls (vm*.go, vbd*.go, vdi*.go, sr.go, …), else
//	     accessors made from the data model (accessors.go)
//	                            |
//	                            v
//	     database (objects, back-references, generations) --> event.from
//	            |                          ^
//	            v                          | vm-data, guest metrics, power-off
//	     <dir>/<SR uuid>/<VDI uuid>.raw    |
//	            ^                          |
//	            +------- domain.go: one Guest a running VM, started by a World
//
// A VM that boots from a disk of a delegate template is started in Config.World; every other VM gets a built-in guest
// that has drivers and an agent but runs nothing. A message of the data model that nobody has written yet is answered with
// NOT_IMPLEMENTED, so that it cannot be taken for one that works.
//
// One mutex guards the database. A call holds it except while it copies a disk, waits, or talks to a guest; what must not
// happen meanwhile is held off by current_operations, as in xapi.
package xapisim
