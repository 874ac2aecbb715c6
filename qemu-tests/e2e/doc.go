// Package e2e proves the delegate's image on real firmware: its tests boot what `make image` has built, in the world of package
// qemu-tests/worlds/qemu. They stand behind the build tag e2e; `make e2e` builds what they need and runs them.
//
//	replicate_test.go   two pools, the image deployed into both, a VM replicated twice between their delegates
//	rehearse_test.go    a restore point boots after a killed run, and does not without its boot sector, as replica test --auto judges
//	firmware_test.go    the image's disk on SeaBIOS and on OVMF
//	disks_test.go       disks that come, go and are torn away, of unusual kinds
//	network_test.go     IPv6, static and by DHCP; MTUs; a target's disk torn away
//	line_test.go        a thin and long line, which the guests' kernels imitate (sch_netem), is filled
//	failure_test.go     what a delegate that cannot work says, and where
//
// A test keeps its machines' folders in build/consoles/<test> when it fails: the console, what went over the virtio-serial port,
// QEMU's complaints.
package e2e
