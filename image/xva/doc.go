// Package xva writes, reads and checks XVA files, the form in which a pool imports and exports a VM with its disks.
//
// A delegate's image reaches a pool as an XVA. Nothing tells a pool's administrator more than 'import failed' when one is
// malformed, some flaws are not even noticed (a missing first chunk imports wrong data), and the outcome is known only after
// the whole upload. So the writer here follows the strictest reader among the releases, and the checker finds every flaw
// before a byte is sent. The format is that of xapi-facts §10 and of what a running xapi was seen to take and refuse
// (xapi-observed, 'XVA').
//
//	tar stream, plain, gzip or zstd
//	┌──────────────────────────┐
//	│ ova.xml                  │ one XML-RPC value: version, objects (class, id, snapshot = its record)
//	├──────────────────────────┤
//	│ Ref:0003/00000000        │ chunk 0 of the VDI with this id, 1 MiB           first and last chunk
//	│ Ref:0003/00000000.checksum │ its SHA-1 (or .xxhash: its XXH64)              are always there,
//	│ Ref:0003/00000007        │ numbers left out are zeroes, each as long as      zeroes between them
//	│ Ref:0003/00000007.checksum │ the very first chunk of the stream             are left out
//	│ …                        │ VDIs one after the other, sorted by id
//	├──────────────────────────┤
//	│ end of archive           │
//	└──────────────────────────┘
//
//	Appliance ── Write ──┬▶ file ─┬─ Check ───▶ Contents      reads everything, refuses every flaw
//	Objects ── NewWriter ┘        └─ NewReader ──▶ Objects, Next: chunks as they come, each checked before it is given out
//
// Memory is bounded by one chunk and the object list; sizes are checked before memory is taken.
package xva
