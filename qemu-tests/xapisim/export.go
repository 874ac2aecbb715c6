package xapisim

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/understudy-dr/understudy/image/xva"
)

// requestedVM is the VM that a request names: by a reference, which nobody looks at yet, or by uuid.
func (x *exchange) requestedVM() (ref string, e *Error) {
	query := x.request.URL.Query()
	if query.Has("ref") {
		return query.Get("ref"), nil
	}
	if !query.Has("uuid") {
		return "", internal("Not_found")
	}
	vm, e := x.byRefOrUUID("VM", query.Get("uuid"))
	if e != nil || vm.ref == query.Get("uuid") {
		return "", fail("UUID_INVALID", "VM", query.Get("uuid"))
	}
	return vm.ref, nil
}

// admitExport finds the VM and a host that sees all its disks. A failure of that is told to the task and to nobody else: the
// connection closes without an answer (transcripts; xen-api ocaml/xapi/export.ml, handler).
func (x *exchange) admitExport() *refusal {
	ref, e := x.requestedVM()
	if e != nil {
		return x.escaped(e)
	}
	if x.vm = x.db.find("VM", ref); x.vm == nil {
		return &refusal{bare: true, failure: fail("HANDLE_INVALID", "VM", ref)}
	}
	var srs []*object
	for _, vbd := range x.db.refs(x.vm, "VBDs", "VBD") {
		if vdi := x.db.find("VDI", vbd.text("VDI")); vdi != nil {
			srs = append(srs, x.db.find("SR", vdi.text("SR")))
		}
	}
	redirect, e := x.route(srs...)
	if e != nil {
		return &refusal{bare: true, failure: e}
	}
	return redirect
}

func (x *exchange) checkExport() *refusal {
	if err := x.gateVM(x.vm, "export"); err != nil {
		e := asError(err)
		return &refusal{status: http.StatusInternalServerError, detail: pageText(e), failure: e}
	}
	return nil
}

func (x *exchange) headOfExport() []string {
	return []string{"content-type: application/octet-stream", `Content-Disposition: attachment; filename="export.xva"`}
}

// runExport streams a VM as an XVA: its record, and its disks one after the other, each held by the control domain while it
// is read. Snapshots of the VM are left out; a snapshot that is exported itself is no snapshot any more.
func (x *exchange) runExport(c *call, out io.ReadWriter) (any, error) {
	if err := x.gateVM(x.vm, "export"); err != nil {
		return nil, err
	}
	defer c.begin(x.vm, "export")()
	client := &noting{Writer: out}
	packed, err := x.packer(client)
	if err != nil {
		return nil, err
	}
	table := &exportTable{Pool: x.Pool, powerState: x.parameter("preserve_power_state") == "true", ids: map[string]string{}}
	table.addVM(x.vm)
	var archive *xva.Writer
	objects := table.objects()
	err = c.unlocked(func() (err error) {
		archive, err = xva.NewWriter(packed, c.version(), objects, xva.XXH64)
		return err
	})
	if err == nil {
		err = x.exportDisks(c, table, archive)
	}
	if err == nil {
		err = c.unlocked(func() error { return cmp.Or(archive.Close(), packed.Close()) })
	}
	if client.failed != nil && !isContext(err) {
		return nil, fail("CLIENT_ERROR", client.failed.Error())
	}
	if err != nil {
		return nil, err
	}
	return noResult, nil
}

// noting remembers the error of a writer.
type noting struct {
	io.Writer
	failed error
}

func (n *noting) Write(p []byte) (int, error) {
	written, err := n.Writer.Write(p)
	if err != nil {
		n.failed = err
	}
	return written, err
}

// packer is the compression that the client wants; anything unknown is none.
func (x *exchange) packer(out io.Writer) (io.WriteCloser, error) {
	switch x.request.URL.Query().Get("use_compression") {
	case "true", "gzip":
		return gzip.NewWriter(out), nil
	case "zstd":
		return zstd.NewWriter(out, zstd.WithEncoderConcurrency(1))
	default:
		return unpacked{out}, nil
	}
}

type unpacked struct{ io.Writer }

func (unpacked) Close() error { return nil }

func (x *exchange) exportDisks(c *call, table *exportTable, archive *xva.Writer) error {
	disks := table.disks(x.vm)
	var total, done int64
	for _, vdi := range disks {
		total += vdi.integer("virtual_size")
	}
	for _, vdi := range disks {
		size := vdi.integer("virtual_size")
		err := c.withDom0(x.host, vdi, "RO", func() error {
			path, id := c.volumePath(vdi), table.ids[vdi.ref]
			return c.unlocked(func() error {
				f, err := os.Open(path)
				if err != nil {
					return ioError(err)
				}
				defer f.Close()
				source := &device{File: f, size: size, ctx: c.ctx, progress: func(part float64) {
					c.percent((float64(done) + part*float64(size)) / float64(total))
				}}
				return archive.Disk(id, size, &reading{device: source, total: size})
			})
		})
		if err != nil {
			return err
		}
		done += size
	}
	return nil
}

// version is what the pool writes into what it exports, and what it compares that of imports with.
func (p *Pool) version() xva.Version {
	software := p.db.find("host", p.hosts[0].ref).table("software_version")
	v := xva.Version{
		Hostname: "localhost", Date: wireDate(now()), ProductVersion: software["product_version"], ProductBrand: software["product_brand"],
		BuildNumber: "cloud",
	}
	_, _ = fmt.Sscanf(software["xapi"], "%d.%d", &v.Major, &v.Minor) // "26.17"
	return v
}

// admitExportMetadata finds the VMs: one, or with all=true every one that is no default template.
func (x *exchange) admitExportMetadata() *refusal {
	query := x.request.URL.Query()
	if query.Get("all") == "true" {
		x.vms = slices.DeleteFunc(x.db.all("VM"), func(vm *object) bool {
			return vm.boolean("is_default_template") || vm.boolean("is_control_domain") && query.Get("include_dom0") == "false"
		})
		return nil
	}
	ref, e := x.requestedVM()
	if e != nil {
		return x.escaped(e)
	}
	vm, err := x.db.get("VM", ref)
	if err != nil {
		return x.escaped(asError(err))
	}
	x.vms = []*object{vm}
	return nil
}

// checkExportMetadata makes the whole file, whose length is told. Snapshots are in it unless export_snapshots=false.
func (x *exchange) checkExportMetadata() *refusal {
	refuse := func(err error) *refusal {
		e := asError(err)
		return &refusal{status: http.StatusInternalServerError, detail: pageText(e), failure: e}
	}
	table := &exportTable{Pool: x.Pool, powerState: true, snapshots: x.parameter("export_snapshots") != "false", ids: map[string]string{}}
	for _, vm := range x.vms {
		if err := x.gateVM(vm, "metadata_export"); err != nil {
			return refuse(err)
		}
		table.addVM(vm)
	}
	var out bytes.Buffer
	archive, err := xva.NewWriter(&out, x.version(), table.objects(), xva.XXH64)
	if err = cmp.Or(err, func() error { return archive.Close() }()); err != nil {
		return refuse(err)
	}
	x.metadata = out.Bytes()
	return nil
}

func (x *exchange) headOfMetadata() []string {
	return append(x.headOfExport(), fmt.Sprintf("Content-Length: %d", len(x.metadata)))
}

func (x *exchange) runExportMetadata(c *call, out io.ReadWriter) (any, error) {
	err := c.unlocked(func() error {
		_, err := out.Write(x.metadata)
		return err
	})
	if err != nil {
		return nil, fail("CLIENT_ERROR", err.Error())
	}
	return noResult, context.Cause(c.ctx)
}
