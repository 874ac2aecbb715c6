// Package debian gives the image, and the test worlds, exact Debian packages without root and without installing anything.
//
// Which mirror, which keys and which signatures count is apt's own business: every request goes through apt-get and
// apt-cache of this machine, with the machine's sources, but with a private state directory and an empty list of
// installed packages. So no server's name stands in this repository, and nobody's system changes.
//
//	names ──▶ Resolve, Closure ──▶ []Package (version, SHA-256: a lock file can hold them)
//	              │ apt-get update, apt-cache show
//	              ▼
//	          DIR/lists  (signed indices)
//	                                        ┌─▶ Unpack: visit each file
//	[]Package ──▶ Fetch ──▶ DIR/archives/*.deb ─┤
//	              apt-get download,         └─▶ Extract: a tree, with os.Root
//	              SHA-256 checked, kept
//
// Fetch gives exactly the versions it is asked for. A stable release replaces versions now and then, and mirrors keep
// only the newest; then Fetch fails with ErrGone, and the lock has to be renewed.
//
// Several processes may share one directory: a file lock lets one of them at a time ask apt. An Archive is safe for
// concurrent use.
package debian
