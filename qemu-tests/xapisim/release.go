package xapisim

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

// release is a product whose data model a pool can have (xapi-facts, release map).
type release struct {
	name     string // code name, as the data model has it
	version  string // product_version
	apiMinor int64
}

// releases are in their order; what is in none of them is older, or has a number and is newer.
var releases = []release{
	{"dundee", "7.0.0", 5}, {"ely", "7.1.0", 6}, {"falcon", "7.2.0", 7}, {"inverness", "7.3.0", 8},
	{"jura", "7.4.0", 9}, {"kolkata", "7.5.0", 10}, {"lima", "7.6.0", 11}, {"naples", "8.0.0", 12},
	{"quebec", "8.1.0", 14}, {"stockholm", "8.2.0", 15},
}

func findRelease(name string) (release, error) {
	var names []string
	for _, r := range releases {
		if r.name == name {
			return r, nil
		}
		names = append(names, r.name)
	}
	return release{}, fmt.Errorf("xapisim: no release %q: want one of %s, or none for the newest", name, strings.Join(names, ", "))
}

// knows tells whether what has this lifecycle was there in the release.
func (r release) knows(l datamodel.Lifecycle) bool {
	since := l.Published
	if since == "" {
		since = l.Prototyped
	}
	at := slices.IndexFunc(releases, func(other release) bool { return other.name == since })
	if at < 0 {
		newer := since == "stockholm_psr" || since == "nile-preview" || since != "" && since[0] >= '0' && since[0] <= '9'
		return !newer
	}
	return at <= slices.Index(releases, r)
}

// laterParams are optional parameters, the last of their messages, that older releases refuse with
// MESSAGE_PARAMETER_COUNT_MISMATCH (param_release in xen-api ocaml/idl/datamodel_vm.ml, datamodel_host.ml).
var laterParams = map[string]string{"VM.snapshot": "ignore_vdis", "VM.snapshot_with_quiesce": "ignore_vdis", "host.disable": "auto_enable"}

// model is the data model without the messages and parameters that came after the release. Its classes keep their fields:
// records leave out those that are not known.
func (r release) model(newest *datamodel.Model) *datamodel.Model {
	out := &datamodel.Model{Classes: map[string]*datamodel.Class{}, Errors: newest.Errors}
	for name, class := range newest.Classes {
		older := *class
		older.Messages = map[string]*datamodel.Message{}
		for _, m := range class.Messages {
			if !r.knows(m.Lifecycle) {
				continue
			}
			if last := len(m.Params) - 1; last >= 0 && m.Params[last].Name == laterParams[name+"."+m.Name] {
				shorter := *m
				shorter.Params = m.Params[:last]
				m = &shorter
			}
			older.Messages[m.Name] = m
		}
		out.Classes[name] = &older
	}
	return out
}

// age makes a pool one of an older release.
func (p *Pool) age(r release) {
	p.release = &r
	for _, h := range p.db.all("host") {
		software := maps.Clone(h.table("software_version"))
		short := strings.TrimSuffix(r.version, ".0")
		maps.Copy(software, map[string]string{"product_version": r.version, "product_version_text": short})
		delete(software, "xapi") // the map does not tell it
		delete(software, "xapi_build")
		p.db.set(h, "software_version", software)
		p.db.set(h, "API_version_minor", r.apiMinor)
	}
}

// laterFields are fields of which the data model says that they have always been there; but they came with their class.
var laterFields = map[relation]string{{"VM", "VUSBs"}: "inverness"}

// known tells whether the pool's release has a field.
func (p *Pool) known(class *datamodel.Class, f *datamodel.Field) bool {
	if p.release == nil {
		return true
	}
	if since := laterFields[relation{class.Name, f.Name}]; since != "" {
		return p.release.knows(datamodel.Lifecycle{Published: since})
	}
	return p.release.knows(f.Lifecycle)
}
