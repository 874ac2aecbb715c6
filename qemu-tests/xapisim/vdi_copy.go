package xapisim

import (
	"errors"
	"fmt"
)

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
	var made *object
	sr := c.db.find("SR", vdi.text("SR"))
	err := c.onVDI(vdi, operation, sr, "vdi_"+operation, func() (err error) {
		if c.depth(vdi) >= maxChain {
			return fail("SR_BACKEND_FAILURE_109", "", "The snapshot chain is too long", "")
		}
		values := map[string]any{"snapshot_time": now()}
		if operation == "snapshot" {
			values["is_a_snapshot"], values["snapshot_of"] = true, vdi.ref
		}
		made, err = c.copyInto(vdi, sr, values, func(made *object) error { return c.settleCopy(vdi, made, sr) })
		return err
	})
	return made, err
}

// settleCopy gives a copy that was just made its place in the chain and, if it is a snapshot, the log of the disk.
func (c *call) settleCopy(vdi, made, sr *object) error {
	held, err := c.read(made)
	if err != nil {
		return err
	}
	c.pile(vdi, made, sr, held)
	if made.boolean("is_a_snapshot") {
		c.snapshotLog(vdi, made, sr, held)
	}
	return nil
}

// copyInto copies a volume and its record. Whoever writes to the original stands still until its content is copied; then
// settle, if there is one, finishes the copy while nobody can get at it. The caller holds the SR's and the VDI's operations.
func (c *call) copyInto(vdi, sr *object, values map[string]any, settle func(made *object) error) (*object, error) {
	for _, field := range copiedFields {
		values[field] = vdi.values[field]
	}
	size := vdi.integer("virtual_size")
	made, err := c.newVDI(sr, size, values)
	if err != nil {
		return nil, err
	}
	defer c.begin(made, "blocked")()
	from, to := c.volumePath(vdi), c.volumePath(made)
	release := c.holdWriters(vdi)
	err = c.unlocked(func() error {
		return copyVolume(c.ctx, from, to, size, func(done float64) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.progress(done)
		})
	})
	if err == nil && c.written(vdi) {
		err = c.secure(vdi) // a driver flushes a disk before it lays another volume on it
	}
	release()
	if err == nil && settle != nil {
		err = settle(made)
	}
	if err != nil && settle == nil && died(c.ctx) {
		return nil, err // half of it stays
	}
	if err != nil {
		c.db.remove(made)
		return nil, driverError("81", "VDI Clone failed", errors.Join(err, remove(to)))
	}
	if c.delegateDisks[vdi.ref] {
		c.delegateDisks[made.ref] = true
	}
	return made, c.refreshSizes(sr)
}

// vdiCopy makes a full copy: a new VDI in the same or another SR, which belongs to no chain and is not tracked, or into an
// existing VDI, of which it can leave alone what differs neither from a base (xen-api ocaml/xapi/xapi_vdi.ml, copy).
func vdiCopy(c *call) (any, error) {
	vdi, err := c.object(0)
	if err != nil {
		return nil, err
	}
	if into := c.db.find("VDI", c.text(3)); into != nil {
		return into.ref, c.copyOver(vdi, into, c.db.find("VDI", c.text(2)))
	}
	sr, err := c.object(1)
	if err != nil {
		return nil, err
	}
	made, err := c.copyInFull(vdi, sr)
	if err != nil {
		return nil, err
	}
	return made.ref, nil
}

func (c *call) copyInFull(vdi, sr *object) (made *object, err error) {
	err = c.onVDI(vdi, "copy", sr, "vdi_create", func() (err error) {
		if made, err = c.copyInto(vdi, sr, map[string]any{}, nil); err == nil {
			c.db.set(made, "read_only", false)
		}
		return err
	})
	return made, err
}

// copyOver writes a VDI's content, or what of it differs from a base, into another VDI.
func (c *call) copyOver(vdi, into, base *object) error {
	sr := c.db.find("SR", into.text("SR"))
	return c.holdVDI(vdi, "copy", func() error {
		switch size := vdi.integer("virtual_size"); {
		case !c.plugged(sr, ""):
			return fail("SR_HAS_NO_PBDS", sr.ref)
		case into.boolean("read_only"):
			return fail("VDI_READONLY", into.ref)
		case into.integer("virtual_size") < size:
			return fail("VDI_TOO_SMALL", into.ref, fmt.Sprint(size))
		case len(c.attachments(into)) > 0:
			return fail("VDI_IN_USE", into.ref)
		}
		if err := c.admit(func() error { return errors.Join(alive(into), busy(into)) }); err != nil {
			return err
		}
		defer c.begin(into, "blocked")()
		from, to, below := c.volumePath(vdi), c.volumePath(into), ""
		if base != nil {
			below = c.volumePath(base)
		}
		if err := c.unlocked(func() error { return overwriteVolume(c.ctx, from, to, below) }); err != nil {
			return driverError("200", "General IO error", err)
		}
		return c.refreshSizes(sr)
	})
}
