// Package datamodel holds the XenAPI's data model as data: classes with their fields and messages, the types of
// those, and the error codes with the names of their parameters.
//
// The simulated pool (qemu-tests/xapisim) makes its object database, its accessors and its checks of arguments from it,
// and so do tools that look at records. One table for all of them means that no class needs code of its own to exist.
//
//	xenapi.json --- internal/lines ---> model.json --- embed ---> Embedded() ---> Model
//	                                                                  classes -> fields, messages -> Type
//
// model.json is the published data model, all 72 classes, one field or message a line so that a change can be read as a
// diff. Its member _about names the sources and the commits that it was taken from. `go generate` with XENAPI_JSON set to
// the path of the full file writes it anew.
package datamodel

//go:generate sh -c "go run ./internal/lines -from \"$XENAPI_JSON\" -to model.json"
