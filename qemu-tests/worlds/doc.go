// Package worlds starts the machines of delegates for simulated pools (qemu-tests/xapisim).
//
// The process world runs the delegate's program as a local process: seconds-fast tests of everything, with honest disk
// speed. A folder of small files stands for the domain's XenStore directory; a key is a relative path, its value the
// file's content. Writers write a file whose name begins with '.' and rename it; both sides poll.
//
//	xapisim (dom0)                     <dir>/<VM uuid>.<domain>/              abd --guest DIR
//	  Start        -- vm, unique-domain-id, vm-data/** ------------------------> reads
//	  Tree  <------------------- vm-data/**, attr/**, data/**, feature/**, control/** -- writes
//	  Plug         -- device/vbd/<n>: "path\nr" or "path\nw" ------------------> opens the disk
//	  Unplug       -- removes device/vbd/<n>, then looks into /proc/<pid>/fd --> closes the disk
//	  Shutdown     -- control/shutdown: "poweroff" ----------------------------> removes it, then exits
//	  Kill         -- SIGKILL
//	                                   console.log <------------ standard output and error
//
// XenStore has no difference between a node and a directory; files have. A key with an empty value is therefore written
// as a directory, and a directory is read as a key with an empty value.
package worlds
