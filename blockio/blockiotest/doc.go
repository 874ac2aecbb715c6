// Package blockiotest holds the conformance suite of blockio.Device. Every implementation and decorator runs it, so that code above may rely on
// what the interface promises whatever lies below:
//
//	blockiotest.TestDevice(t, func(t *testing.T, size int64) blockio.Device { … })
//
// Its heart are random histories of reads, writes and zeroing at offsets and lengths of every alignment, compared with a plain byte slice.
package blockiotest
