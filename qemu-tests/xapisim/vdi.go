package xapisim

import (
	"maps"
	"os"
	"slices"
)

const (
	sizeStep = 2 << 20    // VHD sizes are multiples of it (xapi-facts §6.6)
	maxSize  = 2040 << 30 // and no larger
)

var vdiCalls = map[string]handler{
	"VDI.create":        vdiCreate,
	"VDI.destroy":       vdiDestroy,
	"VDI.snapshot":      func(c *call) (any, error) { return vdiCopyCall(c, "snapshot") },
	"VDI.clone":         func(c *call) (any, error) { return vdiCopyCall(c, "clone") },
	"VDI.copy":          vdiCopy,
	"VDI.resize":        func(c *call) (any, error) { return vdiResize(c, "resize") },
	"VDI.resize_online": func(c *call) (any, error) { return vdiResize(c, "resize_online") },
	"VDI.update": func(c *call) (any, error) {
		vdi, err := c.object(0)
		if err != nil {
			return nil, err
		}
		return nil, c.refreshSizes(c.db.find("SR", vdi.text("SR")))
	},
	"VDI.set_read_only": func(*call) (any, error) { return nil, fail("PERMISSION_DENIED", "") },
	"VDI.set_sharable":  func(*call) (any, error) { return nil, fail("PERMISSION_DENIED", "") },
}

// vdiOperations lists what an idle VDI allows, and which of that while it is attached (xapi-facts §6.6, transcripts).
var (
	vdiOperations   = []string{"copy", "generate_config", "clone", "resize_online", "forget", "update", "resize", "snapshot", "destroy"}
	vdiWhileWritten = []string{"clone", "resize_online", "snapshot"}
	vdiWhileRead    = []string{"copy", "clone", "resize_online", "snapshot"}
)

// attachments are the VBDs through which a VDI is attached now.
func (p *Pool) attachments(vdi *object) []*object {
	return slices.DeleteFunc(p.db.refs(vdi, "VBDs", "VBD"), func(vbd *object) bool { return !vbd.boolean("currently_attached") })
}

func (p *Pool) written(vdi *object) bool {
	return slices.ContainsFunc(p.attachments(vdi), func(vbd *object) bool { return vbd.text("mode") == "RW" })
}

func (p *Pool) vdiAllowed(vdi *object) []string {
	switch {
	case len(vdi.table("current_operations")) > 0 || vdi.boolean("missing") || !vdi.boolean("managed"):
		return []string{}
	case p.written(vdi):
		return vdiWhileWritten
	case len(p.attachments(vdi)) > 0:
		return vdiWhileRead
	default:
		return vdiOperations
	}
}

// admitVDI is the gate before an operation on a VDI, in xapi's order (xapi-facts §6.6).
func (c *call) admitVDI(vdi *object, operation string) error {
	return c.admit(func() error {
		if err := alive(vdi); err != nil {
			return err
		}
		if err := busy(vdi); err != nil {
			return err
		}
		allowed := vdiOperations
		if c.written(vdi) {
			allowed = vdiWhileWritten
		} else if len(c.attachments(vdi)) > 0 {
			allowed = vdiWhileRead
		}
		if !slices.Contains(allowed, operation) {
			return fail("VDI_IN_USE", vdi.ref, operation)
		}
		for _, vbd := range c.db.refs(vdi, "VBDs", "VBD") {
			if err := busy(vbd); err != nil {
				return err
			}
		}
		return nil
	})
}

// onVDI carries out an operation of a VDI: first the VDI is taken, then its SR, always in this order.
func (c *call) onVDI(vdi *object, operation string, sr *object, srOperation string, run func() error) error {
	if err := c.admitVDI(vdi, operation); err != nil {
		return err
	}
	defer c.begin(vdi, operation)()
	return c.onSR(sr, srOperation, run)
}

// roundSize is the size that a storage driver makes of a wanted one.
func roundSize(size int64) (int64, error) {
	if size < 0 || size > maxSize {
		return 0, fail("SR_BACKEND_FAILURE_79", "", "VDI Invalid size [opterr=size out of range]", "")
	}
	return max(sizeStep, (size+sizeStep-1)/sizeStep*sizeStep), nil
}

func vdiCreate(c *call) (any, error) {
	values := c.record(0)
	sr, err := c.db.get("SR", asText(values["SR"]))
	if err != nil {
		return nil, err
	}
	wantedSize, _ := values["virtual_size"].(int64)
	size, err := roundSize(wantedSize)
	if err != nil {
		return nil, err
	}
	var ref string
	err = c.onSR(sr, "vdi_create", func() error {
		vdi, err := c.newVDI(sr, size, values)
		if err != nil {
			return err
		}
		ref = vdi.ref
		path, garbage := c.volumePath(vdi), c.garbage[sr.ref]
		if err := c.unlocked(func() error { return createVolume(c.ctx, path, size, garbage) }); err != nil {
			c.db.remove(vdi)
			return driverError("78", "VDI Creation failed", err)
		}
		return c.refreshSizes(sr)
	})
	return ref, err
}

// newVDI makes the record of a volume that is about to be written.
func (p *Pool) newVDI(sr *object, size int64, values map[string]any) (*object, error) {
	if err := p.reserve(sr, size); err != nil {
		return nil, err
	}
	values = maps.Clone(values)
	uuid := newUUID()
	maps.Copy(values, map[string]any{"uuid": uuid, "location": uuid, "SR": sr.ref, "virtual_size": size, "managed": true})
	return p.db.insert("VDI", values), nil
}

func driverError(number, text string, err error) error {
	if isContext(err) {
		return err
	}
	return fail("SR_BACKEND_FAILURE_"+number, "", text+" [opterr="+err.Error()+"]", "")
}

func vdiDestroy(c *call) (any, error) {
	vdi, err := c.object(0)
	if err != nil {
		return nil, err
	}
	return nil, c.destroyVDI(vdi)
}

// destroyVDI removes a volume, its record and the VBDs that refer to it.
func (c *call) destroyVDI(vdi *object) error {
	sr := c.db.find("SR", vdi.text("SR"))
	return c.onVDI(vdi, "destroy", sr, "vdi_destroy", func() error {
		if err := os.Remove(c.volumePath(vdi)); err != nil {
			return driverError("80", "VDI Delete failed", err)
		}
		for _, vbd := range c.db.refs(vdi, "VBDs", "VBD") {
			c.db.remove(vbd)
		}
		delete(c.delegateDisks, vdi.ref)
		c.db.remove(vdi)
		return c.refreshSizes(sr)
	})
}

func vdiCopyCall(c *call, operation string) (any, error) {
	vdi, err := c.object(0)
	if err != nil {
		return nil, err
	}
	made, err := c.copyVDI(vdi, operation)
	if err != nil {
		return nil, err
	}
	return made.ref, nil
}

// copiedFields travel to clones and snapshots, marker keys and all (xapi-facts §6.6).
var copiedFields = []string{
	"name_label", "name_description", "type", "sharable", "read_only", "other_config", "tags", "xenstore_data", "on_boot", "allow_caching",
}

// copyVDI makes a snapshot or a clone of a VDI in its SR: one moment of the disk, whatever its guest does meanwhile.
func (c *call) copyVDI(vdi *object, operation string) (*object, error) {
	if vdi.boolean("sharable") && operation == "snapshot" {
		return nil, fail("VDI_IS_SHARABLE", vdi.ref)
	}
	var made *object
	sr := c.db.find("SR", vdi.text("SR"))
	err := c.onVDI(vdi, operation, sr, "vdi_"+operation, func() (err error) {
		release := c.holdWriters(vdi)
		defer release()
		made, err = c.copyInto(vdi, sr, operation == "snapshot")
		return err
	})
	return made, err
}

// copyInto copies a volume and its record. The caller holds the SR's and the VDI's operations.
func (c *call) copyInto(vdi, sr *object, snapshot bool) (*object, error) {
	values := map[string]any{"snapshot_time": now()}
	for _, field := range copiedFields {
		values[field] = vdi.values[field]
	}
	if snapshot {
		values["is_a_snapshot"], values["snapshot_of"] = true, vdi.ref
	}
	size := vdi.integer("virtual_size")
	made, err := c.newVDI(sr, size, values)
	if err != nil {
		return nil, err
	}
	from, to := c.volumePath(vdi), c.volumePath(made)
	c.db.put(made, "current_operations", c.task, "blocked")
	err = c.unlocked(func() error {
		return copyVolume(c.ctx, from, to, size, func(done float64) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.progress(done)
		})
	})
	c.db.take(made, "current_operations", c.task)
	if err != nil {
		c.db.remove(made)
		return nil, driverError("81", "VDI Clone failed", err)
	}
	if c.delegateDisks[vdi.ref] {
		c.delegateDisks[made.ref] = true
	}
	return made, c.refreshSizes(sr)
}

// vdiCopy makes a full copy, to the same or another SR. Delta copies (into_vdi) are not written.
func vdiCopy(c *call) (any, error) {
	vdi, err := c.object(0)
	if err != nil {
		return nil, err
	}
	sr, err := c.object(1)
	if err != nil {
		return nil, err
	}
	if into := c.text(3); into != "" && c.db.find("VDI", into) != nil {
		return nil, fail("NOT_IMPLEMENTED", "VDI.copy into a VDI")
	}
	var made *object
	err = c.onVDI(vdi, "copy", sr, "vdi_create", func() (err error) {
		made, err = c.copyInto(vdi, sr, false)
		return err
	})
	if err != nil {
		return nil, err
	}
	return made.ref, nil
}

func vdiResize(c *call, operation string) (any, error) {
	vdi, err := c.object(0)
	if err != nil {
		return nil, err
	}
	if c.integer(1) < vdi.integer("virtual_size") {
		return nil, fail("SR_BACKEND_FAILURE_79", "", "VDI Invalid size [opterr=shrinking not allowed]", "")
	}
	size, err := roundSize(c.integer(1))
	if err != nil {
		return nil, err
	}
	sr := c.db.find("SR", vdi.text("SR"))
	return nil, c.onVDI(vdi, operation, sr, "vdi_resize", func() error {
		if err := c.reserve(sr, size-vdi.integer("virtual_size")); err != nil {
			return err
		}
		if err := os.Truncate(c.volumePath(vdi), size); err != nil {
			return driverError("110", "VDI resize failed", err)
		}
		c.db.set(vdi, "virtual_size", size)
		return c.refreshSizes(sr)
	})
}
