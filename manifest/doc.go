// Package manifest knows what a disk holds without holding it: digests of its blocks and extents, a root over them all, the
// file that keeps them, and the changes between two such states.
//
// A transfer sends only what differs, so somebody must remember what the other side has. That memory is a manifest. A wrong one
// means silent corruption of a replica, therefore everything here is checked: each part of a file has a checksum, each extent
// digest is recomputed from its block digests wherever a key is at hand, each composition ends in a root that both sides can
// compare, and a State says whether a manifest may be believed at all.
//
//	disk     | block 64 KiB | block | … 64 … |  …                        logical size bytes
//	             │ Hasher.Block   │       │
//	             ▼                ▼       ▼
//	records  [ digest         digest   digest ]  [ … ]   one Record an extent (4 MiB), 2 KiB of digests
//	             └───────┬────────────────┘        │
//	                     ▼ Hasher.Extent           ▼
//	table            [ extent digest            extent digest … ]        8 MiB a TiB
//	                     └──────────┬──────────────┘
//	                                ▼ RootHasher, with the logical size
//	                              root
//
// After a run the orchestrator composes the new manifest from the old one and the records that the journal collected:
//
//	Reader ──┬─ Overlay ──┐
//	Delta… ──┘            ├─ a View: the base ─┐
//	Reader ───────────────┘                    ├──▶ Compose       a manifest of its own
//	Journal ── Records, sorted: the changes ───┴──▶ ComposeDelta  the extents that differ
//
// Digests are keyed: block, extent and root digests each under their own key derived from the Key of a domain. Two domains
// cannot be compared with each other, and nobody without the key can test guesses about a disk's content.
//
// docs/manifest.md is the specification of the files, with golden bytes.
package manifest
