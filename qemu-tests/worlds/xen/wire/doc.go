// Package wire is what the Xen world (qemu-tests/worlds/xen) and its agent in dom0 say to each other.
//
//	world (host)                     virtio-serial port                     agent (dom0, PID 1)
//	Request  {"id":1,"call":"create","create":{…}}      ------------------->  xl, XenStore
//	Reply    {"reply":{"id":1}}                         <-------------------
//	Event    {"event":{"name":"tree","domain":"g","tree":{…}}} <-----------  XenStore watches, console files
//	Request  {"id":1,"call":"cancel"}                   ------------------->  ends the call with that id
//
// Messages are JSON, one a line. Both ends are built from one source tree, so that there are no versions.
package wire
