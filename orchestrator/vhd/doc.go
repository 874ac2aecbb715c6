// Package vhd reads VHDs as a pool streams them, front to back (xapi-facts §10.6): which blocks one holds, from its beginning alone, and
// the content of a whole disk.
//
// The difference between two disks comes as a differencing VHD. Its allocation table lists the blocks that were written since; that is
// all that is asked of it here: whether there are any, and where (Reader.Next). A whole disk comes as a dynamic VHD, which says what it
// leaves out as zeroes before the first byte of content does (Content.Held), and is then read in the order of the disk (Content.Read).
//
//	   0 ┌──────────────────┐
//	     │ copy of footer   │ size, kind (dynamic, differencing), checksum
//	 512 ├──────────────────┤
//	     │ dynamic header   │ where the table is, how many blocks of what size; checksum
//	1536 ├──────────────────┤
//	     │ parent locators  │ skipped
//	     ├──────────────────┤
//	     │ allocation table │ for each block its first sector, or ffffffff: not there     ◀── Next ends here, Held knows
//	     ├──────────────────┤
//	     │ bitmap, block    │ a bit for each sector that counts; then the block          ◀── Content.Read
//	     │ …                │
//	     ├──────────────────┤
//	     │ footer           │
//	     └──────────────────┘
//
// The fields are those of the 'Virtual Hard Disk Image Format Specification' 1.0; all numbers are big-endian. What is read is
// bounded by the size that the caller expects of the disk, and memory by a small buffer, whatever the stream says.
package vhd
