package xva

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

// Object is an object in ova.xml. Snapshot is its record: values are string (also for integers, which are untyped as a
// rule), int64, bool, float64, DateTime, []any and map[string]any.
type Object struct {
	Class, ID string
	Snapshot  map[string]any
}

// Text is a field that is text, or an integer as text; "" when it is anything else.
func (o Object) Text(field string) string {
	switch v := o.Snapshot[field].(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return ""
}

// Table is a field that is a map of text; other members are left out.
func (o Object) Table(field string) map[string]string {
	members, _ := o.Snapshot[field].(map[string]any)
	out := make(map[string]string, len(members))
	for name, v := range members {
		if text, ok := v.(string); ok {
			out[name] = text
		}
	}
	return out
}

func (o Object) flag(field string) bool { v, _ := o.Snapshot[field].(bool); return v }

// DiskInfo is a disk whose content is in the stream.
type DiskInfo struct {
	ID   string // of the VDI in the file
	Name string
	Size int64 // bytes, the VDI's virtual_size
	// Chunks is how many chunks hold data, Bytes how much that is. Both grow as the stream is read.
	Chunks int
	Bytes  int64
}

// maxVirtualSize bounds a disk's size, so that no sum of offsets overflows.
const maxVirtualSize = 64 << 40

// metadata is the content of ova.xml, checked.
type metadata struct {
	version Version
	objects []Object
	disks   []DiskInfo // sorted by id, the order in the stream
	byID    map[string]Object
}

// parseMetadata reads ova.xml and checks what an importer relies on: required fields, references, sizes.
func parseMetadata(text []byte) (*metadata, error) {
	v, err := decodeValue(text)
	if err != nil {
		return nil, malformed(metadataFile, err.Error())
	}
	root, _ := v.(map[string]any)
	version, _ := root["version"].(map[string]any)
	objects, ok := root["objects"].([]any)
	if version == nil || !ok {
		return nil, malformed(metadataFile, "it is no struct of a version and objects")
	}
	values := Object{Snapshot: version}
	if vsn, err := strconv.ParseInt(values.Text("export_vsn"), 10, 64); err != nil || vsn < checksumsInline {
		return nil, &Error{
			Kind: ErrFormat, File: metadataFile, Detail: "export_vsn, which tells where checksums stand: want 2 or more", Found: values.Text("export_vsn"),
		}
	}
	m := &metadata{byID: map[string]Object{}, version: versionOf(values)}
	for n, item := range objects {
		if err := m.add(n, item); err != nil {
			return nil, err
		}
	}
	if !slices.ContainsFunc(m.objects, func(o Object) bool { return o.Class == "VM" }) {
		return nil, malformed(metadataFile, "it holds no VM")
	}
	for _, o := range m.objects {
		if err := m.checkReferences(o); err != nil {
			return nil, err
		}
	}
	return m, m.findDisks()
}

// versionOf reads what is there; a number that is none is 0.
func versionOf(o Object) Version {
	number := func(field string) int64 {
		n, _ := strconv.ParseInt(o.Text(field), 10, 64)
		return n
	}
	return Version{
		Hostname: o.Text("hostname"), Date: o.Text("date"), ProductVersion: o.Text("product_version"),
		ProductBrand: o.Text("product_brand"), BuildNumber: o.Text("build_number"), Major: number("xapi_major"), Minor: number("xapi_minor"),
	}
}

func (m *metadata) add(n int, item any) error {
	members, _ := item.(map[string]any)
	class, _ := members["class"].(string)
	id, _ := members["id"].(string)
	snapshot, ok := members["snapshot"].(map[string]any)
	if class == "" || id == "" || !ok {
		return malformed(metadataFile, fmt.Sprintf("object %d has no class, id or snapshot", n))
	}
	if _, twice := m.byID[id]; twice {
		return malformed(metadataFile, fmt.Sprintf("two objects have the id %s", id))
	}
	for _, field := range required[class] {
		if _, given := snapshot[field]; !given {
			return &Error{Kind: ErrField, File: metadataFile, Detail: class + " " + id, Expected: field}
		}
	}
	o := Object{Class: class, ID: id, Snapshot: snapshot}
	m.objects = append(m.objects, o)
	m.byID[id] = o
	return nil
}

// references that an importer follows. Others, such as affinity and metrics, may lead nowhere (xapi-facts §10.2).
var references = map[string]map[string]string{
	"VBD": {"VM": "VM", "VDI": "VDI"},
	"VDI": {"SR": "SR"},
	"VIF": {"VM": "VM", "network": "network"},
}

func (m *metadata) checkReferences(o Object) error {
	for field, class := range references[o.Class] {
		if o.Class == "VBD" && field == "VDI" && o.flag("empty") {
			continue
		}
		if id := o.Text(field); m.byID[id].Class != class {
			return &Error{Kind: ErrReference, File: metadataFile, Detail: fmt.Sprintf("%s of %s %s should be a %s", field, o.Class, o.ID, class), Found: id}
		}
	}
	return nil
}

// directory is what an id must look like to be the name of a folder in the archive.
var directory = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9:._-]{0,63}$`)

// findDisks lists the VDIs whose content follows: those of VBDs that are no CD drives, and suspend images
// (xapi-facts §10.3).
func (m *metadata) findDisks() error {
	inStream := map[string]bool{}
	for _, o := range m.objects {
		switch {
		case o.Class == "VBD" && o.Text("type") != "CD" && !o.flag("empty"):
			inStream[o.Text("VDI")] = true
		case o.Class == "VM" && m.byID[o.Text("suspend_VDI")].Class == "VDI":
			inStream[o.Text("suspend_VDI")] = true
		}
	}
	for id := range inStream {
		vdi := m.byID[id]
		if m.byID[vdi.Text("SR")].Text("content_type") == "iso" {
			continue // media to eject
		}
		size, err := strconv.ParseInt(vdi.Text("virtual_size"), 10, 64)
		if err != nil || size < 0 || size > maxVirtualSize {
			return &Error{Kind: ErrSize, File: metadataFile, Detail: "virtual_size of VDI " + id, Expected: "0 to 64 TiB", Found: vdi.Text("virtual_size")}
		}
		if !directory.MatchString(id) {
			return malformed(metadataFile, fmt.Sprintf("the id %q of a VDI cannot be the name of its folder", id))
		}
		m.disks = append(m.disks, DiskInfo{ID: id, Name: vdi.Text("name_label"), Size: size})
	}
	slices.SortFunc(m.disks, func(a, b DiskInfo) int { return cmp.Compare(a.ID, b.ID) })
	return nil
}
