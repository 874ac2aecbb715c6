// Package control is how the orchestrator tells a delegate what to do: the types of the delegate's control API and its client.
//
// The API is HTTP/1.1 with JSON over mutual TLS 1.3, both ends pinned to the other's Ed25519 identity, on the delegate's one port
// beside the data connections (told apart by ALPN). Digests and journals, which would be large in JSON, travel as plain binary
// bodies. Replicated data never comes this way. The package holds no server: that is package appliance, so that the orchestrator
// imports nothing of what runs inside a delegate.
//
//	orchestrator                                  delegate
//	  Client ── PUT key, POST tasks ────────────▶  task: waiting → running → done | failed | cancelled
//	         ── PUT known, baseline ────────────▶  (extent digests, whole)
//	         ◀─ GET wanted ── PUT blocks ───────▶  (block digests, only of extents that differ)
//	         ◀─ GET journal (acknowledges) ─────   (new block digests of what became durable)
//	         ◀─ GET status, devices, events ────
//
// Waiting is by long poll: the delegate never calls the orchestrator. Everything may be asked again after a cut: a task is posted
// under a name that the orchestrator chose, a journal page is kept until the next is asked for, wanted extents stay wanted until
// their digests came.
package control
