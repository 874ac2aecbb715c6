package xapisim

import (
	"maps"
	"slices"
	"strings"
)

// system answers the calls that xapi has beside the messages of its data model. They need no session, and every host answers
// them, the coordinator or not (xapi-project/xen-api ocaml/idl/ocaml_backend/gen_server.ml).
func (p *Pool) system(method string, params []any) (result any, known bool) {
	switch {
	case method == "system.listMethods":
		return slices.Sorted(maps.Keys(p.handlers)), true
	case strings.HasPrefix(method, "system.isAlive:") && len(params) > 0:
		return params[0], true
	default:
		return nil, false
	}
}
