// Package vhd reads which blocks a VHD holds, from the beginning of its stream and without the blocks themselves.
//
// A pool exports the difference between two disks as a differencing VHD (xapi-facts §10.6). Its allocation table lists the
// blocks that were written since; that is all that is asked of it here: whether there are any, and where.
//
//	   0 ┌──────────────────┐
//	     │ copy of footer   │ size, kind (dynamic, differencing), checksum
//	 512 ├──────────────────┤
//	     │ dynamic header   │ where the table is, how many blocks of what size; checksum
//	1536 ├──────────────────┤
//	     │ parent locators  │ skipped
//	     ├──────────────────┤
//	     │ allocation table │ for each block its first sector, or ffffffff: not there     ◀── Next ends here
//	     ├──────────────────┤
//	     │ blocks, footer   │ not read
//	     └──────────────────┘
//
// The fields are those of the 'Virtual Hard Disk Image Format Specification' 1.0; all numbers are big-endian. What is read is
// bounded by the size that the caller expects of the disk, and memory by a small buffer, whatever the stream says.
package vhd
