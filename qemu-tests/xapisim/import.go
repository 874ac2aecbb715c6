package xapisim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/understudy-dr/understudy/image/xva"
)

// admitImport chooses the SR, which is named or the pool's default.
func (x *exchange) admitImport() *refusal {
	sr, named, e := x.wantedSR()
	if e != nil {
		return x.escaped(e)
	}
	if !named {
		ref := x.db.all("pool")[0].text("default_SR")
		if sr = x.db.find("SR", ref); sr == nil {
			return x.escaped(fail("DEFAULT_SR_NOT_FOUND", ref))
		}
	}
	redirect, e := x.route(sr)
	if e != nil {
		return x.escaped(e)
	}
	x.sr = sr
	return redirect
}

func (x *exchange) checkImport() *refusal {
	if err := x.upgradable("", nil); err != nil {
		return failed(badRequest, asError(err))
	}
	switch {
	case x.sr.text("content_type") == "iso":
		return failed(badRequest, fail("SR_OPERATION_NOT_SUPPORTED"))
	case len(x.request.TransferEncoding) > 0:
		return failed(forbidden, fail("IMPORT_ERROR_CANNOT_HANDLE_CHUNKED"))
	}
	return nil
}

func (x *exchange) runImport(c *call, body io.ReadWriter) (any, error) {
	set := func(option string) bool { return x.request.URL.Query().Get(option) == "true" }
	i := &importation{call: c, sr: x.sr, made: map[string]*object{}, restore: set("restore"), force: set("force")}
	vms, err := i.importXVA(body)
	if err != nil {
		return nil, err
	}
	return vms, nil
}

// importation is one import of an XVA under way (xapi-facts §10.4).
type importation struct {
	*call
	reader   *xva.Reader
	sr       *object
	made     map[string]*object // by the id in the file
	networks []*object          // that had to be made

	restore bool // identities are kept, and a VM that is there already is replaced
	force   bool // wrong checksums are passed over, and a failure leaves what was made
}

// importXVA makes the objects of an XVA and fills their disks. The caller holds Pool.mu. A failure removes all that was
// made, unless it is forced or the toolstack is gone.
func (i *importation) importXVA(body io.Reader) (vms []string, err error) {
	err = i.unlocked(func() (err error) {
		i.reader, err = xva.NewReader(body)
		return err
	})
	if err != nil {
		return nil, importError(err)
	}
	i.reader.Force = i.force
	if err := i.acceptable(); err != nil {
		return nil, err
	}
	defer func() {
		for _, o := range i.made {
			i.db.take(o, "current_operations", i.task)
		}
		if err != nil && !i.force && !died(i.ctx) {
			i.undo()
		}
	}()
	if err := i.createObjects(); err != nil {
		return nil, err
	}
	if task := i.db.find("task", i.task); task != nil {
		i.db.put(task, "other_config", "object_creation", "complete")
	}
	if err := i.fillDisks(); err != nil {
		return nil, err
	}
	return i.vms(), i.refreshSizes(i.sr)
}

// vms are the outcome: the VMs that are no snapshots, or all of them when there is nothing else.
func (i *importation) vms() []string {
	var vms, snapshots []string
	for _, o := range i.reader.Objects() {
		if o.Class != "VM" {
			continue
		}
		vm := i.made[o.ID]
		i.noteDelegate(vm)
		if vm.boolean("is_a_snapshot") {
			snapshots = append(snapshots, vm.ref)
		} else {
			vms = append(vms, vm.ref)
		}
	}
	if vms == nil {
		return snapshots
	}
	return vms
}

// noteDelegate makes the machines that boot from the disks of a delegate's template, or from copies of them, start in
// Config.World.
func (p *Pool) noteDelegate(vm *object) {
	if vm.table("other_config")[xva.KeyKind] != xva.KindDelegateTemplate {
		return
	}
	for _, vbd := range p.db.refs(vm, "VBDs", "VBD") {
		p.delegateDisks[vbd.text("VDI")] = true
	}
}

// createObjects makes the records, class by class in xapi's order.
func (i *importation) createObjects() error {
	for _, step := range []struct {
		class  string
		create func(xva.Object, map[string]any) (*object, error)
	}{{"VDI", i.createDisk}, {"VM_guest_metrics", i.createMetrics}, {"VM_metrics", i.createMetrics}, {"VM", i.createVM}, {"network", i.findNetwork}, {"VBD", i.createVBD}, {"VIF", i.createVIF}} {
		for _, o := range i.reader.Objects() {
			if o.Class != step.class {
				continue
			}
			values, err := i.decoder.constructor(i.db.model.Classes[o.Class], jsonLike(o.Snapshot))
			if err != nil {
				return wrapped(err)
			}
			made, err := step.create(o, values.(map[string]any)) // a constructor always gives one
			if err != nil {
				return err
			}
			if made == nil {
				continue
			}
			i.made[o.ID] = made
			if operation := map[string]string{"VDI": "blocked", "VM": "import"}[o.Class]; operation != "" && !(i.force && o.Class == "VM") {
				i.db.put(made, "current_operations", i.task, operation)
			}
		}
	}
	return i.linkVMs()
}

// jsonLike turns a value of an XVA into what the decoder of calls takes.
func jsonLike(v any) any {
	switch v := v.(type) {
	case int64:
		return json.Number(strconv.FormatInt(v, 10))
	case float64:
		return json.Number(strconv.FormatFloat(v, 'f', -1, 64))
	case xva.DateTime:
		return string(v)
	case []any:
		out := make([]any, len(v))
		for n, item := range v {
			out[n] = jsonLike(item)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, item := range v {
			out[name] = jsonLike(item)
		}
		return out
	default:
		return v
	}
}

// createDisk makes a volume for a VDI whose content is in the stream; others, such as media in a drive, are left out.
func (i *importation) createDisk(o xva.Object, values map[string]any) (made *object, err error) {
	if !slices.ContainsFunc(i.reader.Disks(), func(d xva.DiskInfo) bool { return d.ID == o.ID }) {
		return nil, nil
	}
	size, err := roundSize(values["virtual_size"].(int64))
	if err != nil {
		return nil, err
	}
	delete(values, "parent")
	values["sm_config"] = map[string]string{"import_task": i.task}
	err = i.onSR(i.sr, "vdi_create", func() error {
		if made, err = i.newVDI(i.sr, size, values); err != nil {
			return err
		}
		// Zeroes also where new volumes are full of noise: on such an SR xapi writes those that the stream leaves out.
		if err := createVolume(i.ctx, i.volumePath(made), size, false); err != nil {
			i.db.remove(made)
			return driverError("78", "VDI Creation failed", err)
		}
		return i.refreshSizes(i.sr)
	})
	return made, err
}

// findNetwork maps a network by name, then by bridge, else makes an internal one. A network without a VIF is not needed.
func (i *importation) findNetwork(o xva.Object, values map[string]any) (*object, error) {
	if !slices.ContainsFunc(i.reader.Objects(), func(vif xva.Object) bool { return vif.Class == "VIF" && vif.Text("network") == o.ID }) {
		return nil, nil
	}
	for _, field := range []string{"name_label", "bridge"} {
		for _, network := range i.db.all("network") {
			if value := o.Text(field); value != "" && network.text(field) == value {
				return network, nil
			}
		}
	}
	delete(values, "uuid")
	values["bridge"], values["other_config"] = "xapi"+strconv.Itoa(len(i.db.tables["network"])), map[string]string{"import_task": i.task}
	made := i.db.insert("network", values)
	i.networks = append(i.networks, made)
	return made, nil
}

// createVBD attaches what was imported; a drive whose medium was not comes empty.
func (i *importation) createVBD(o xva.Object, values map[string]any) (*object, error) {
	vm, err := i.vmOf(o)
	if err != nil {
		return nil, err
	}
	i.keepUUID(o, values)
	values["VM"], values["VDI"] = vm.ref, nullRef
	if vdi := i.made[o.Text("VDI")]; vdi != nil && values["empty"] != true {
		values["VDI"] = vdi.ref
	} else {
		values["empty"] = true
	}
	values["device"], values["currently_attached"] = "", false
	return i.db.insert("VBD", values), nil
}

func (i *importation) createVIF(o xva.Object, values map[string]any) (*object, error) {
	vm, err := i.vmOf(o)
	if err != nil {
		return nil, err
	}
	i.keepUUID(o, values)
	values["VM"], values["network"] = vm.ref, i.made[o.Text("network")].ref
	if !i.restore {
		values["MAC"], values["MAC_autogenerated"] = macOf(vm.table("other_config")["mac_seed"], deviceNumber(o.Text("device"))), true
	}
	values["currently_attached"] = false
	return i.db.insert("VIF", values), nil
}

// fillDisks writes the chunks as they come, into files that read as zeroes where nothing comes.
func (i *importation) fillDisks() error {
	disks := i.reader.Disks()
	var total, done int64
	paths := make([]string, len(disks))
	for n, disk := range disks {
		total += disk.Size
		paths[n] = i.volumePath(i.made[disk.ID])
	}
	return i.unlocked(func() error {
		files := map[string]*os.File{}
		for n, disk := range disks {
			f, err := os.OpenFile(paths[n], os.O_WRONLY, 0)
			if err != nil {
				return fail("VDI_IO_ERROR", err.Error())
			}
			defer f.Close() // each write is checked, and nothing is buffered
			files[disk.ID] = f
		}
		for !i.reader.Complete() {
			chunk, err := i.reader.Next()
			if err != nil {
				return importError(err)
			}
			if _, err := files[chunk.VDI].WriteAt(chunk.Data, chunk.Offset); err != nil {
				return fail("VDI_IO_ERROR", err.Error())
			}
			done += int64(len(chunk.Data))
			i.mu.Lock()
			i.progress(float64(done) / float64(total)) // a disk that has data has a size
			i.mu.Unlock()
		}
		return nil
	})
}

// undo removes what a failed import has made. Nobody else has got at it: current_operations held everybody off.
func (i *importation) undo() {
	for _, class := range []string{"VBD", "VIF", "VM", "VM_metrics", "VM_guest_metrics", "VDI"} {
		for _, o := range i.made {
			switch {
			case o.class.Name != class:
			case class == "VM":
				i.dropMetrics(o, "metrics", "VM_metrics")
				i.db.remove(o)
			case class == "VDI":
				_ = os.Remove(i.volumePath(o)) // what is left is found by a scan
				i.db.remove(o)
			default:
				i.db.remove(o)
			}
		}
	}
	for _, network := range i.networks {
		i.db.remove(network)
	}
	_ = i.refreshSizes(i.sr) // the first error is the one to tell
}

// importError gives a flaw of an XVA the code and the text that xapi has for it (xapi-facts §10.1 to §10.3,
// xapi-observed). Whatever it cannot read as an archive ends too early for it.
func importError(err error) error {
	flaw, ok := errors.AsType[*xva.Error](err)
	switch {
	case !ok:
		return err
	case errors.Is(err, xva.ErrTruncated), errors.Is(err, xva.ErrNoArchive):
		return fail("IMPORT_ERROR_PREMATURE_EOF")
	case errors.Is(err, xva.ErrField):
		return wrapped(failure("Field " + flaw.Expected + " not present in rpc"))
	case errors.Is(err, xva.ErrUnexpected) && flaw.Expected == "ova.xml":
		return fail("IMPORT_ERROR_UNEXPECTED_FILE", flaw.Expected, flaw.Found)
	case errors.Is(err, xva.ErrReference):
		return fail("IMPORT_ERROR_FAILED_TO_FIND_OBJECT", flaw.Found)
	case errors.Is(err, xva.ErrChecksum):
		return wrapped(internal(fmt.Sprintf("Stream_vdi.Invalid_checksum(%q)",
			fmt.Sprintf("Block %s checksum failed: original = %s; recomputed = %s", flaw.File, flaw.Expected, flaw.Found))))
	default:
		return wrapped(failure("Invalid XVA file: " + flaw.Error()))
	}
}

// wrapped is an error that xapi did not foresee during an import.
func wrapped(err error) *Error { return fail("IMPORT_ERROR", errorText(asError(err))) }
