// Package synthetic makes disks of any size out of nothing: what a block holds is a function of its number, so that two tebibytes take
// no room. What is written lies in a sparse file above.
//
//	ReadAt ── written? ── sparse file
//	             └─ no ── content(generation, block): a hole, a zero, one of a few contents that recur, or one of its own
//
// Two devices with one seed have the same content but for the blocks in which their generations differ, and so make the two ends of
// a transfer of a disk that no machine at hand could hold.
package synthetic
