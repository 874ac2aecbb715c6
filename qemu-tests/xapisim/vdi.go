package xapisim

import (
	"maps"
	"os"
	"path/filepath"
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
		return onVDIAlone(c, "update", func(vdi *object) error {
			sr := c.db.find("SR", vdi.text("SR"))
			if !c.plugged(sr, "") {
				return fail("SR_HAS_NO_PBDS", sr.ref)
			}
			return c.refreshSizes(sr)
		})
	},
	"VDI.forget":      vdiForget,
	"VDI.introduce":   vdiIntroduce,
	"VDI.set_on_boot": setOnBoot,
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
	vdi, err := c.createVDI(sr, size, values)
	if err != nil {
		return nil, err
	}
	return vdi.ref, nil
}

// createVDI makes a volume of a rounded size and its record.
func (c *call) createVDI(sr *object, size int64, values map[string]any) (vdi *object, err error) {
	err = c.onSR(sr, "vdi_create", func() error {
		if vdi, err = c.newVDI(sr, size, values); err != nil {
			return err
		}
		path, garbage := c.volumePath(vdi), c.noisy(sr)
		if err := c.unlocked(func() error { return createVolume(c.ctx, path, size, garbage) }); err != nil {
			c.db.remove(vdi)
			return driverError("78", "VDI Creation failed", err)
		}
		return c.refreshSizes(sr)
	})
	return vdi, err
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
		if err := os.Remove(c.volumePath(vdi)); err != nil && vdi.text("type") != "cbt_metadata" {
			return driverError("80", "VDI Delete failed", err)
		}
		c.mergeLog(vdi.uuid())
		c.dropLink(vdi.uuid(), sr)
		for _, vbd := range c.db.refs(vdi, "VBDs", "VBD") {
			c.db.remove(vbd)
		}
		delete(c.delegateDisks, vdi.ref)
		c.db.remove(vdi)
		return c.refreshSizes(sr)
	})
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
		if log := c.logs[vdi.uuid()]; log != nil {
			log.size = size
		}
		return c.refreshSizes(sr)
	})
}

// vdiForget removes the record only: a scan finds the volume again, but not what the record said of it.
func vdiForget(c *call) (any, error) {
	return onVDIAlone(c, "forget", func(vdi *object) error {
		for _, vbd := range c.db.refs(vdi, "VBDs", "VBD") {
			c.db.remove(vbd)
		}
		c.db.remove(vdi)
		return nil
	})
}

// vdiIntroduce makes a record for a volume that is there (transcripts).
func vdiIntroduce(c *call) (any, error) {
	sr, err := c.object(3)
	if err != nil {
		return nil, err
	}
	location := c.text(8)
	var ref string
	err = c.onSR(sr, "vdi_introduce", func() error {
		for _, vdi := range c.db.refs(sr, "VDIs", "VDI") {
			if vdi.text("location") == location {
				return fail("LOCATION_NOT_UNIQUE", sr.ref, location)
			}
		}
		info, err := os.Stat(filepath.Join(c.srDir(sr), location+".raw"))
		if err != nil {
			return internal("Storage_error ([S(Vdi_does_not_exist);S(" + location + ")])")
		}
		values := map[string]any{"virtual_size": info.Size()}
		for n, param := range c.message.Params {
			switch param.Name {
			case "name_label", "name_description", "type", "sharable", "read_only", "other_config", "xenstore_data", "is_a_snapshot",
				"snapshot_time", "snapshot_of":
				values[param.Name] = c.args[n]
			}
		}
		ref = c.reintroduce(sr, location, values).ref
		return c.refreshSizes(sr)
	})
	return ref, err
}

// setOnBoot takes a disk that no VM uses.
func setOnBoot(c *call) (any, error) {
	return onVDIOnly(c, "set_on_boot", func(vdi *object) error {
		c.db.set(vdi, "on_boot", c.text(1))
		return nil
	})
}
