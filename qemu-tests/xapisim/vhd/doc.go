// Package vhd writes and reads disks in the VHD format, in the form in which a pool sends and takes them: as a stream, front
// to back, with nothing to seek in.
//
// A pool's storage keeps disks as VHDs, and /export_raw_vdi and /import_raw_vdi carry them, whole or as the difference to
// another disk (xapi-facts §10.6). Backup products build on that, so the simulator must write what they read, bit by bit,
// and refuse what a pool refuses. The layout is that of xapi's own tool (xen-api ocaml/libs/vhd/vhd_format/f.ml), the
// fields are those of the 'Virtual Hard Disk Image Format Specification' 1.0; all numbers are big-endian.
//
//	     0 ┌──────────────────┐
//	       │ copy of footer   │ size, geometry, kind (dynamic, differencing), unique id, checksum
//	   512 ├──────────────────┤
//	       │ dynamic header   │ where the table is, how many blocks; id, time and name of the parent; checksum
//	  1536 ├──────────────────┤
//	       │ parent locator   │ file://… of the parent; empty when there is none
//	  2048 ├──────────────────┤
//	       │ allocation table │ for each block of 2 MiB its first sector, or ffffffff
//	       ├──────────────────┤
//	       │ bitmap, block    │ one bit a sector, the first in the highest bit; then the 2 MiB
//	       │ …                │
//	       ├──────────────────┤
//	       │ footer           │
//	       └──────────────────┘
//
//	Disk, blocks, io.ReaderAt ── Write ──▶ stream ── NewReader, Next ──▶ Extents: what the stream says, at its place
//
// A block that is not there is zero, or that of the parent. The reader takes images of other tools too, with other block
// sizes and other gaps, as long as their parts come in the order above. It takes memory only for what has arrived.
package vhd
