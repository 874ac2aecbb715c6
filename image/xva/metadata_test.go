package xva_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/image/xva"
)

// An import fails when any of these fields is missing; found by leaving out each in turn (xapi-observed).
func TestRequiredFields(t *testing.T) {
	objects := []object{vm, sr, vdi, vbd, network, vif}
	if _, err := xva.NewReader(bytes.NewReader(pack(t, tar.FormatUSTAR, ova(objects...)...))); err != nil {
		t.Fatal(err)
	}
	for n, o := range objects {
		for field := range o.fields {
			objects[n] = o.without(field)
			_, err := xva.NewReader(bytes.NewReader(pack(t, tar.FormatUSTAR, ova(objects...)...)))
			if flaw, _ := errors.AsType[*xva.Error](err); !errors.Is(err, xva.ErrField) || flaw.Expected != field || flaw.Detail != o.class+" "+o.id {
				t.Errorf("%s without %s: %v", o.class, field, err)
			}
		}
		objects[n] = o
	}
}

func TestMetadataRefuses(t *testing.T) {
	twice := object{"VDI", "Ref:0", vdi.fields}
	for name, c := range map[string]struct {
		kind    error
		objects []object
	}{
		"a VBD of no VM":          {xva.ErrReference, []object{vm, sr, vdi, vbd.with("VM", "Ref:9")}},
		"a VBD without its VDI":   {xva.ErrReference, []object{vm, sr, vbd}},
		"a VBD of another class":  {xva.ErrReference, []object{vm, sr, vdi, vbd.with("VDI", "Ref:1")}},
		"a VDI without its SR":    {xva.ErrReference, []object{vm, vdi, vbd}},
		"a VIF without a network": {xva.ErrReference, []object{vm, sr, vdi, vbd, vif}},
		"one id twice":            {xva.ErrFormat, []object{vm, sr, twice, vdi, vbd}},
		"no VM":                   {xva.ErrFormat, []object{sr, vdi}},
		"no size":                 {xva.ErrSize, []object{vm, sr, vdi.with("virtual_size", "big"), vbd}},
		"a negative size":         {xva.ErrSize, []object{vm, sr, vdi.with("virtual_size", "-1"), vbd}},
		"a size out of bounds":    {xva.ErrSize, []object{vm, sr, vdi.with("virtual_size", "70368744177665"), vbd}},
		"an id that is a path":    {xva.ErrFormat, []object{vm, sr, {"VDI", "../x", vdi.fields}, vbd.with("VDI", "../x")}},
	} {
		_, err := xva.NewReader(bytes.NewReader(pack(t, tar.FormatUSTAR, ova(c.objects...)...)))
		if !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want %v", name, err, c.kind)
		}
	}
	_, err := xva.NewReader(bytes.NewReader(pack(t, tar.FormatUSTAR, ova(vm, sr, vdi, vbd.with("VDI", "Ref:77"))...)))
	if e, ok := errors.AsType[*xva.Error](err); !ok || e.Found != "Ref:77" {
		t.Errorf("%v does not name the object that is missing", err)
	}
}

func TestMetadataRefusesBadXML(t *testing.T) {
	good := string(document(vm, sr, vdi, vbd))
	for name, text := range map[string]string{
		"empty":                 "",
		"no XML":                "ova",
		"cut":                   good[:len(good)/2],
		"something behind":      good + "<value/>",
		"text behind":           good + "x",
		"a document type":       "<!DOCTYPE x>" + good,
		"an entity":             strings.Replace(good, "<value>5242880", "<value>&size;", 1),
		"not a struct":          "<value>x</value>",
		"no objects":            strings.Replace(good, "<name>objects", "<name>things", 1),
		"checksums at the end":  strings.Replace(good, "<name>export_vsn</name><value>2", "<name>export_vsn</name><value>1", 1),
		"another encoding":      `<?xml version="1.0" encoding="utf-16"?>` + good,
		"an unknown type":       strings.Replace(good, "<value>5242880</value>", "<value><size>1</size></value>", 1),
		"a bad integer":         strings.Replace(good, "<value>5242880</value>", "<value><int>x</int></value>", 1),
		"a bad boolean":         strings.Replace(good, "<value>5242880</value>", "<value><boolean>true</boolean></value>", 1),
		"a type in a type":      strings.Replace(good, "<value>5242880</value>", "<value><int><int>1</int></int></value>", 1),
		"text before a type":    strings.Replace(good, "<value>5242880</value>", "<value>1<int>1</int></value>", 1),
		"two types":             strings.Replace(good, "<value>5242880</value>", "<value><int>1</int><int>1</int></value>", 1),
		"a member twice":        strings.Replace(good, "<name>class</name>", "<name>id</name>", 1),
		"a member without name": strings.Replace(good, "<name>class</name>", "", 1),
		"an object of text":     strings.Replace(good, "<data><value><struct>", "<data><value>x</value><value><struct>", 1),
		"nested too deeply":     strings.Replace(good, "5242880", strings.Repeat("<array><data><value>", 20)+strings.Repeat("</value></data></array>", 20), 1),
	} {
		_, err := xva.NewReader(bytes.NewReader(pack(t, tar.FormatUSTAR, entry{name: "ova.xml", content: []byte(text)})))
		if !errors.Is(err, xva.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if text := strings.Replace(good, "5242880", "<!-- a comment --><int> 5242880\n</int>", 1); true {
		text = "<?xml version=\"1.0\"?>\n" + strings.ReplaceAll(text, "<member>", "\n  <member>")
		x, err := xva.NewReader(bytes.NewReader(pack(t, tar.FormatUSTAR, entry{name: "ova.xml", content: []byte(text)})))
		if err != nil || x.Disks()[0].Size != 5*mib {
			t.Errorf("a prolog, a comment and space: %v", err)
		}
	}
}
