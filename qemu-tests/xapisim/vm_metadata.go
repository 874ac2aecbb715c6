package xapisim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

// namespaces are the first parts of those fields of a VM that the database keeps apart with two underscores.
var namespaces = []string{"name", "memory", "actions", "HVM", "VCPUs", "PV"}

// metadata is a VM's row in the form that snapshot_metadata holds: a list of quoted pairs, the last names first (vm_to_string
// in ocaml/xapi/helpers.ml, transcripts).
func (p *Pool) metadata(vm *object) string {
	row := map[string]string{"_ref": vm.ref, "recommended_guidances": "()"} // the one field that the API has lost and the database kept
	for _, f := range vm.class.Fields {
		field := f.Name
		for _, space := range namespaces {
			if rest, ok := strings.CutPrefix(field, space+"_"); ok {
				field = space + "__" + rest
			}
		}
		row[field] = cellText(p.field(vm, f.Name))
	}
	pairs := []string{}
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(row))) {
		pairs = append(pairs, "("+quoted(name)+" "+quoted(row[name])+")")
	}
	return "(" + strings.Join(pairs, " ") + ")"
}

// cellText is a value as the database keeps it.
func cellText(value any) string {
	switch v := value.(type) {
	case []string:
		items := []string{}
		for _, item := range v {
			items = append(items, quoted(item))
		}
		return "(" + strings.Join(items, " ") + ")"
	case map[string]string:
		items := []string{}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			items = append(items, "("+quoted(key)+" "+quoted(v[key])+")")
		}
		return "(" + strings.Join(items, " ") + ")"
	case map[string]any: // in a VM's record only references to blobs, of which there are none here
		return "()"
	case time.Time:
		return datamodel.FormatDate(v)
	default:
		return fmt.Sprint(v)
	}
}

func quoted(text string) string {
	return "'" + strings.ReplaceAll(strings.ReplaceAll(text, `\`, `\\`), "'", `\'`) + "'"
}
