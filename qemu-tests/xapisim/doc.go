// Package xapisim is a simulated pool: a real HTTPS server that speaks the XenAPI, with real disk files behind its VDIs.
//
// It exists so that the whole product, and clients that others wrote, can be tried in seconds and without a hypervisor.
// It is an independent judge: of the product it imports the data model and the reader of XVAs, nothing of the client; it is
// strict where xapi is strict and answers with the error codes of xapi (xapi-facts §1 to §8 and §10, xapi-observed). It is
// also the ground on which wider parts of the XenAPI are to stand, so almost everything in it is driven by tables:
//
//	       POST /jsonrpc; to any other path XML-RPC (xmlrpc.go)
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
//	            ^
//	       data handlers (exchange.go): 200 at once, then the data, of which only the task tells
//	       PUT /import (import.go), /import_raw_vdi (raw_import.go), GET /export_raw_vdi (raw_export.go; vhd/),
//	       GET /export, /export_metadata (export.go)
//
// What may be done with an object follows from its gate (vm.go, vbd_gate.go, vif.go, vdi_gate.go, sr_gate.go): the calls pass
// it, and allowed_operations are what passes it. A migration (migrate.go) changes records only: guests run in a World, on no
// host. Setters that belong to storage drivers are known, and refuse everyone (hidden.go).
//
// A VM that boots from a disk of a delegate template, or from a copy of one, is started in Config.World; such a template is
// what AddDelegateTemplate makes, or an imported VM with the mark of one. Every other VM gets a built-in guest that has
// drivers and an agent but runs nothing. A message of the data model that nobody has written yet is answered with
// NOT_IMPLEMENTED, so that it cannot be taken for one that works.
//
// What it does to its clients on purpose, and how to switch each of these on, is told by docs/simulator.md.
//
// Rules make it go wrong (Pool.Fault, ParseFaults): each request passes them before it is dispatched, each byte of a
// connection (fault_connection.go) passes them inside TLS.
//
// Hosts fail from Go: CrashHost, BootHost, RestartToolstack, Promote, Trouble (failover.go). A client meets, in this order:
// connections that break, members that answer HOST_IS_SLAVE with the old coordinator's address, HOST_STILL_BOOTING while a
// toolstack starts (Config.BootDelay), then HOST_IS_SLAVE with the new one's address and SESSION_INVALID there for every
// old session; tasks are gone and every object comes again as an addition of event.from. Address, URL and Fingerprint
// follow the coordinator, Addresses and Fingerprints keep their order. Through the XenAPI the same is done by
// pool.designate_new_master, pool.emergency_transition_to_master, pool.recover_slaves and pool.emergency_reset_master.
// Calls whose toolstack goes leave behind what they had made; those that are cancelled clear it up.
//
// The pool is one of the newest release, or of an older one whose data model knows less (Config.Release; release.go).
//
// The file of a VDI is whole, whatever chain it is in. Chains of base copies (chain.go, coalesce.go), the space that they take
// (utilisation.go) and changed block tracking (cbt.go) follow from hashes of what the files held at a snapshot (contents.go): no
// write is missed, whoever made it. What storage and other people do that nobody should rely on them not to do is told by
// Pool.Lie (lies.go).
//
// One mutex guards the database. A call holds it except while it copies a disk, waits, or talks to a guest; what must not
// happen meanwhile is held off by current_operations, as in xapi.
package xapisim
