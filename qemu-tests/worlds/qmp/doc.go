// Package qmp speaks QEMU's machine protocol over a unix socket: JSON, one message a line. The worlds plug, unplug, pause
// and end machines with it.
//
//	Execute -- {"execute":…,"arguments":…,"id":7} -----------------> QEMU
//	Execute <--- {"return":…,"id":7} or {"error":…,"id":7} --+------ QEMU
//	Subscription <------- {"event":…,"data":…} --------------+
//
// One goroutine, the Client's, reads; answers find their caller by id, events every subscription that wants them. A
// subscription's queue has no bound, so a slow subscriber loses nothing: subscribe before the command whose event is
// awaited. The protocol is QEMU's docs/interop/qmp-spec.txt (7.2).
package qmp
