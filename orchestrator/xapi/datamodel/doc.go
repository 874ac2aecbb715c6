// Package datamodel holds the XenAPI's data model as data: classes with their fields and messages, the types of
// those, and the error codes with the names of their parameters.
//
// The simulated pool (qemu-tests/xapisim) makes its object database, its accessors and its checks of arguments from it,
// and so do tools that look at records. One table for all of them means that a class is added by adding its name to the
// list in the generator, not by writing code.
//
//	xenapi.json (72 classes) --- internal/cut ---> model.json --- embed ---> Embedded() ---> Model
//	                                                                              classes -> fields, messages -> Type
//
// model.json is the part of the published data model that is in use, one field or message a line so that a change can
// be read as a diff. Its member _about names the sources and the commits that it was taken from. `go generate` with
// XENAPI_JSON set to the path of the full file cuts it anew.
package datamodel

//go:generate sh -c "go run ./internal/cut -from \"$XENAPI_JSON\" -to model.json"
