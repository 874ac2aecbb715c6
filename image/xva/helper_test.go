package xva_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/understudy-dr/understudy/image/xva"
)

const mib = 1 << 20

// disk is size bytes of zeroes with noise at the given offsets, half a MiB each.
func disk(size int64, noisy ...int64) []byte {
	content := make([]byte, size)
	random := rand.NewChaCha8([32]byte{1})
	for _, at := range noisy {
		_, _ = random.Read(content[at:min(at+mib/2, size)]) // never fails
	}
	return content
}

func appliance(content []byte) xva.Appliance {
	return xva.Appliance{
		Name: "Understudy delegate", Description: "reads & writes <disks>", Version: "1.2.3-0badcafe", Memory: 256 * mib, VCPUs: 2,
		Tags: []string{"understudy"}, OtherConfig: map[string]string{"understudy:built": "from source"},
		Disk: xva.Disk{Name: "boot", Description: "kernel and delegate", Size: int64(len(content)), Content: bytes.NewReader(content)},
	}
}

func write(t testing.TB, a xva.Appliance) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := xva.Write(&out, a); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func sample(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// read puts a disk together from the chunks of an XVA.
func read(file []byte) (map[string][]byte, error) {
	x, err := xva.NewReader(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	disks := map[string][]byte{}
	for _, d := range x.Disks() {
		disks[d.ID] = make([]byte, d.Size)
	}
	for {
		chunk, err := x.Next()
		if errors.Is(err, io.EOF) {
			return disks, nil
		} else if err != nil {
			return nil, err
		}
		copy(disks[chunk.VDI][chunk.Offset:], chunk.Data)
	}
}

// entry is a file of an archive that a test builds by hand.
type entry struct {
	name    string
	content []byte
	header  func(*tar.Header) // changes the header
}

func pack(t testing.TB, format tar.Format, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		header := &tar.Header{Name: e.name, Size: int64(len(e.content)), Mode: 0o600, Format: format, Typeflag: tar.TypeReg}
		if e.header != nil {
			e.header(header)
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// chunk is a chunk with its checksum.
func chunk(id string, number int, content []byte) []entry {
	name := fmt.Sprintf("%s/%08d", id, number)
	sum := sha1.Sum(content)
	return []entry{{name: name, content: content}, {name: name + ".checksum", content: []byte(hex.EncodeToString(sum[:]))}}
}

func join(parts ...[]entry) []entry {
	var out []entry
	for _, part := range parts {
		out = append(out, part...)
	}
	return out
}

// object is one of ova.xml, value its XML text.
type object struct {
	class, id string
	fields    map[string]string
}

func (o object) with(field, value string) object {
	fields := maps.Clone(o.fields)
	fields[field] = value
	return object{o.class, o.id, fields}
}

func (o object) without(field string) object {
	fields := maps.Clone(o.fields)
	delete(fields, field)
	return object{o.class, o.id, fields}
}

func document(objects ...object) []byte {
	var out bytes.Buffer
	out.WriteString("<value><struct><member><name>version</name><value><struct><member><name>export_vsn</name><value>2</value></member>" +
		"</struct></value></member><member><name>objects</name><value><array><data>")
	for _, o := range objects {
		fmt.Fprintf(&out, "<value><struct><member><name>class</name><value>%s</value></member><member><name>id</name><value>%s</value></member>"+
			"<member><name>snapshot</name><value><struct>", o.class, o.id)
		for name, value := range o.fields {
			fmt.Fprintf(&out, "<member><name>%s</name><value>%s</value></member>", name, value)
		}
		out.WriteString("</struct></value></member></struct></value>")
	}
	out.WriteString("</data></array></value></member></struct></value>")
	return out.Bytes()
}

// fields are those that an import needs (xapi-observed), each with an empty text.
func fields(names ...string) map[string]string {
	out := map[string]string{}
	for _, name := range names {
		out[name] = ""
	}
	return out
}

var (
	vm = object{"VM", "Ref:0", fields("uuid", "user_version", "is_a_template", "is_control_domain", "affinity", "resident_on", "metrics",
		"guest_metrics", "domid", "domarch", "memory_static_max", "memory_static_min", "memory_dynamic_max", "memory_dynamic_min",
		"VCPUs_params", "VCPUs_max", "VCPUs_at_startup", "actions_after_shutdown", "actions_after_reboot", "actions_after_crash",
		"PV_bootloader", "PV_kernel", "PV_ramdisk", "PV_args", "PV_bootloader_args", "PV_legacy_args", "HVM_boot_policy",
		"HVM_boot_params", "platform", "PCI_bus", "other_config", "recommendations")}
	sr = object{"SR", "Ref:1", fields("uuid", "type", "content_type", "shared", "physical_size", "physical_utilisation",
		"virtual_allocation", "other_config")}
	vdi = object{"VDI", "Ref:2", fields("uuid", "physical_utilisation", "type", "sharable", "read_only", "managed", "missing", "parent",
		"storage_lock", "other_config")}.with("SR", "Ref:1").with("virtual_size", "5242880")
	vbd = object{"VBD", "Ref:3", fields("uuid", "userdevice", "bootable", "mode", "type", "empty", "storage_lock", "other_config",
		"status_code", "status_detail", "runtime_properties", "qos_algorithm_type", "qos_algorithm_params",
		"qos_supported_algorithms")}.with("VM", "Ref:0").with("VDI", "Ref:2")
	network = object{"network", "Ref:4", fields("uuid", "other_config")}
	vif     = object{"VIF", "Ref:5", fields("uuid", "device", "MAC", "MTU", "other_config", "qos_algorithm_type", "qos_algorithm_params",
		"qos_supported_algorithms", "status_code", "status_detail", "runtime_properties")}.with("VM", "Ref:0").with("network", "Ref:4")
)

func ova(objects ...object) []entry {
	if len(objects) == 0 {
		objects = []object{vm, sr, vdi, vbd}
	}
	return []entry{{name: "ova.xml", content: document(objects...)}}
}
