// Package appliance is what runs inside a delegate (ABD): it reads its configuration from the virtual machine it runs in, makes a
// key pair, listens on one port for its orchestrator and its peers, and does the tasks it is given. It keeps nothing: when it ends,
// for whatever reason, everything it knew is gone, and the orchestrator spawns another.
//
//	Guest ── Input, Domain ──▶ Run ── Publish: PV keys, then identity ──▶ Guest
//	      ── WatchDevices ───▶ devices.Registry
//	      ── AwaitShutdown ──▶ stop
//	Network ── Up: the address ──▶ listen
//	        ── Watch ──▶ events; stop when the address is lost
//
//	port 7811, mutual TLS 1.3 ─┬─ ALPN control ── orchestrator's key only ──▶ HTTP API ──▶ tasks.Manager
//	                           └─ ALPN data ───── keys that tasks named ────▶ netproto ──▶ tasks.Manager (by token)
//
// Nobody else gets past the handshake. Run ends in an ordered way — asked by the pool or by the orchestrator, or because no
// orchestrator has spoken for a while — or with an error; the cause is published either way, as nobody can log in to a delegate.
package appliance
