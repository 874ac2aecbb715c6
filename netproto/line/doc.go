// Package line makes a thin and long line of the loopback device: a TCP proxy in user space that lets bytes through at a rate, and late.
// It stands in for a WAN where the kernel has no netem, in 'understudy bench --line' and under every peer that it is measured against.
//
//	dialer ══ socket ══▶ read ─▶ queue ─▶ delay ─▶ write ══ socket ══▶ target        and the same back
//	                             ╰─ one rate and one bounded queue for all connections of a direction
//
// What a real line does, and how it is done here:
//
//   - Rate: each direction carries so many bytes of TCP payload a second, whatever the number of connections; headers are not counted.
//     A chunk's time on the line is reserved when it is read, so that a late timer costs no throughput.
//   - Delay: half the round trip each way, without reordering. A connection's first bytes wait a whole round trip, which is what
//     the handshake of TCP would have taken.
//   - Queue: as a router's. It holds what is in flight and Buffer bytes more; then the proxy reads no further, and the sender's kernel
//     fills up. Nothing is lost: a queue that is full stands for a congestion control that has found its rate.
//   - End: the end of a stream passes after the bytes before it, a reset too.
//
// A test that wants the line to break gives a [Gate]; package qemu-tests/line has one.
package line
