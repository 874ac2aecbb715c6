package xapisim

import (
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

// object is one row of the database. Sets and maps among its values are never changed in place: whoever sets a field
// hands over a new one.
type object struct {
	class    *datamodel.Class
	ref      string
	values   map[string]any
	created  uint64
	modified uint64
	deleted  bool
}

func (o *object) text(field string) string    { v, _ := o.values[field].(string); return v }
func (o *object) integer(field string) int64  { v, _ := o.values[field].(int64); return v }
func (o *object) boolean(field string) bool   { v, _ := o.values[field].(bool); return v }
func (o *object) date(field string) time.Time { v, _ := o.values[field].(time.Time); return v }
func (o *object) list(field string) []string  { v, _ := o.values[field].([]string); return v }
func (o *object) table(field string) map[string]string {
	v, _ := o.values[field].(map[string]string)
	return v
}
func (o *object) uuid() string { return o.text("uuid") }

type deletion struct {
	ref              string
	created, deleted uint64
}

// maxDeletions bounds how many deletions of a class event.from remembers (xapi-facts §4: 256 to 512 a table).
const maxDeletions = 512

// database holds the objects of one pool. All of it is guarded by Pool.mu.
type database struct {
	model      *datamodel.Model
	tables     map[string]map[string]*object
	deletions  map[string][]deletion
	forgotten  uint64 // generation of the newest deletion that is not remembered any more
	generation uint64
	changed    chan struct{} // closed and replaced at each change
}

func newDatabase(model *datamodel.Model) *database {
	db := &database{
		model: model, tables: map[string]map[string]*object{}, deletions: map[string][]deletion{}, changed: make(chan struct{}),
	}
	for name := range model.Classes {
		db.tables[name] = map[string]*object{}
	}
	return db
}

// relation says that a reference field has a back-reference: a set in the object that it points to.
type relation struct{ class, set string }

var relations = map[relation]relation{
	{"VBD", "VM"}:            {"VM", "VBDs"},
	{"VBD", "VDI"}:           {"VDI", "VBDs"},
	{"VIF", "VM"}:            {"VM", "VIFs"},
	{"VIF", "network"}:       {"network", "VIFs"},
	{"VDI", "SR"}:            {"SR", "VDIs"},
	{"VDI", "snapshot_of"}:   {"VDI", "snapshots"},
	{"PBD", "SR"}:            {"SR", "PBDs"},
	{"PBD", "host"}:          {"host", "PBDs"},
	{"PIF", "network"}:       {"network", "PIFs"},
	{"PIF", "host"}:          {"host", "PIFs"},
	{"VM", "snapshot_of"}:    {"VM", "snapshots"},
	{"VM", "parent"}:         {"VM", "children"},
	{"VM", "resident_on"}:    {"host", "resident_VMs"},
	{"VTPM", "VM"}:           {"VM", "VTPMs"},
	{"console", "VM"}:        {"VM", "consoles"},
	{"task", "subtask_of"}:   {"task", "subtasks"},
	{"VUSB", "VM"}:           {"VM", "VUSBs"},
	{"VM", "appliance"}:      {"VM_appliance", "VMs"},
	{"Certificate", "host"}:  {"host", "certificates"},
	{"host_cpu", "host"}:     {"host", "host_CPUs"},
	{"VLAN", "tagged_PIF"}:   {"PIF", "VLAN_slave_of"},
	{"Bond", "master"}:       {"PIF", "bond_master_of"},
	{"PIF", "bond_slave_of"}: {"Bond", "slaves"},
	{"PCI", "host"}:          {"host", "PCIs"},
	{"PGPU", "host"}:         {"host", "PGPUs"},
	{"crashdump", "VM"}:      {"VM", "crash_dumps"},
	{"crashdump", "VDI"}:     {"VDI", "crash_dumps"},
}

// companions are objects of which each object of a class has one of its own, by the field that points to it.
var companions = map[relation]string{
	{"VBD", "metrics"}: "VBD_metrics",
	{"VIF", "metrics"}: "VIF_metrics",
	{"PIF", "metrics"}: "PIF_metrics",
}

// insert makes an object. Fields that are not given get their default, or the zero value of their type.
func (db *database) insert(class string, values map[string]any) *object {
	o := db.place(class, newRef(), values)
	for companion, of := range companions {
		if companion.class == class && o.text(companion.set) == nullRef {
			o.values[companion.set] = db.insert(of, nil).ref
		}
	}
	for field, v := range o.values {
		db.link(o, field, v)
	}
	return o
}

// place puts an object into its table without the back-references to it.
func (db *database) place(class, ref string, values map[string]any) *object {
	c := db.model.Classes[class]
	o := &object{class: c, ref: ref, values: make(map[string]any, len(c.Fields))}
	for _, f := range c.Fields {
		v, given := values[f.Name]
		switch {
		case given:
		case f.Default != nil:
			v = f.Default
		default:
			v = f.Type.Zero()
		}
		o.values[f.Name] = v
	}
	if o.uuid() == "" && c.Field("uuid") != nil {
		o.values["uuid"] = newUUID()
	}
	db.bump(o)
	o.created = o.modified
	db.tables[class][o.ref] = o
	return o
}

// set changes one field; setting the value that is already there is no change, as in xapi's database.
func (db *database) set(o *object, field string, value any) {
	old := o.values[field]
	if o.deleted || reflect.DeepEqual(old, value) {
		return
	}
	db.unlink(o, field, old)
	o.values[field] = value
	db.link(o, field, value)
	db.bump(o)
}

// put sets a key of a string map, take removes it.
func (db *database) put(o *object, field, key, value string) {
	table := maps.Clone(o.table(field))
	if table == nil {
		table = map[string]string{}
	}
	table[key] = value
	db.set(o, field, table)
}

func (db *database) take(o *object, field, key string) {
	table := maps.Clone(o.table(field))
	delete(table, key)
	db.set(o, field, table)
}

func (db *database) remove(o *object) {
	if o.deleted {
		return
	}
	for field, v := range o.values {
		db.unlink(o, field, v)
	}
	for companion, of := range companions {
		if own := db.find(of, o.text(companion.set)); companion.class == o.class.Name && own != nil {
			db.remove(own)
		}
	}
	db.bump(o)
	o.deleted = true
	delete(db.tables[o.class.Name], o.ref)
	gone := append(db.deletions[o.class.Name], deletion{o.ref, o.created, db.generation})
	if lost := len(gone) - maxDeletions; lost > 0 {
		db.forgotten, gone = max(db.forgotten, gone[lost-1].deleted), gone[lost:]
	}
	db.deletions[o.class.Name] = gone
}

func (db *database) bump(o *object) {
	db.generation++
	o.modified = db.generation
	close(db.changed)
	db.changed = make(chan struct{})
}

// reload is what a restart of xapi does to the counters: every object counts as new, deletions are forgotten.
func (db *database) reload() {
	for class := range db.model.Classes {
		for _, o := range db.all(class) {
			db.bump(o)
			o.created = o.modified
		}
	}
	clear(db.deletions)
}

func (db *database) link(o *object, field string, value any) {
	if parent, set := db.parent(o, field, value); parent != nil {
		parent.values[set] = append([]string{o.ref}, parent.list(set)...)
		db.bump(parent)
	}
}

func (db *database) unlink(o *object, field string, value any) {
	if parent, set := db.parent(o, field, value); parent != nil {
		parent.values[set] = slices.DeleteFunc(slices.Clone(parent.list(set)), func(ref string) bool { return ref == o.ref })
		db.bump(parent)
	}
}

func (db *database) parent(o *object, field string, value any) (*object, string) {
	back, ok := relations[relation{o.class.Name, field}]
	ref, isRef := value.(string)
	if !ok || !isRef {
		return nil, ""
	}
	return db.tables[back.class][ref], back.set
}

// find gives the object of a reference, or nil.
func (db *database) find(class, ref string) *object { return db.tables[class][ref] }

// get gives the object of a reference, or HANDLE_INVALID.
func (db *database) get(class, ref string) (*object, error) {
	if o := db.tables[class][ref]; o != nil {
		return o, nil
	}
	return nil, fail("HANDLE_INVALID", class, ref)
}

// refs gives the objects that the references of a set point to; dangling ones are left out.
func (db *database) refs(o *object, field, class string) []*object {
	var out []*object
	for _, ref := range o.list(field) {
		if child := db.find(class, ref); child != nil {
			out = append(out, child)
		}
	}
	return out
}

// all gives the objects of a class in the order of their creation.
func (db *database) all(class string) []*object {
	return slices.SortedFunc(maps.Values(db.tables[class]), func(a, b *object) int { return int(a.created) - int(b.created) })
}
