// Package standin is a guest for tests of the process world and of simulated pools: it keeps its side of the guest
// folder's contract and does nothing else. A test binary becomes one when it is started as `--guest DIR`, so that no
// other program must be built.
//
// The key vm-data/test/behaviour changes that: "hold" keeps unplugged disks open, "deaf" ignores a shutdown, "exit" ends
// at once, and "count" writes a rising number of eight digits to the first and then to the last bytes of its disks, as
// fast as it can.
package standin
