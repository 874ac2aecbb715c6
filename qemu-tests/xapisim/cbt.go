package xapisim

import (
	"encoding/base64"
	"errors"
	"os"
	"time"
)

var cbtCalls = map[string]handler{
	"VDI.enable_cbt": func(c *call) (any, error) {
		return onVDIOnly(c, "enable_cbt", func(vdi *object) error {
			if err := c.licensed("CBT"); err != nil {
				return err
			}
			return c.enableCBT(vdi)
		})
	},
	"VDI.disable_cbt": func(c *call) (any, error) {
		return onVDIOnly(c, "disable_cbt", func(vdi *object) error {
			c.dropLog(vdi)
			return nil
		})
	},
	"VDI.data_destroy":        func(c *call) (any, error) { return onVDIOnly(c, "data_destroy", c.dataDestroy) },
	"VDI.list_changed_blocks": listChangedBlocks,
}

// onVDIOnly runs an operation of the VDI that is the first argument, with that of the same name on its SR.
func onVDIOnly(c *call, operation string, run func(vdi *object) error) (any, error) {
	vdi, err := c.object(0)
	if err != nil {
		return nil, err
	}
	sr := c.db.find("SR", vdi.text("SR"))
	return nil, c.onVDI(vdi, operation, sr, "vdi_"+operation, func() error { return run(vdi) })
}

// cbtLog is the log of a tracked VDI: what was written from the moment of its parent to its own. The log of a live disk
// is open: what has changed is found by comparing the disk with what it held when the log was begun. A snapshot takes it
// over, closed. Logs belong to the uuid of a volume and outlive the VDI's record (SM libs/sm/VDI.py, cbtutil.py).
type cbtLog struct {
	sr            string // uuid
	size          int64
	blocks        map[int64]bool // that have changed, besides those that comparing with since shows
	since         contents       // what the disk held when an open log was begun
	closed        bool
	parent, child string // uuids of VDIs; their logs may be gone
	dirty         bool   // the disk is attached for writing, or was when its host went down
	lost          bool   // its host went down
}

// enableCBT begins a log. The disk's guests stand still meanwhile, as they do while a real one's tapdisk is paused.
func (c *call) enableCBT(vdi *object) error {
	if vdi.boolean("cbt_enabled") {
		return nil
	}
	if sr := c.db.find("SR", vdi.text("SR")); c.garbage[sr.ref] {
		return fail("SR_BACKEND_FAILURE_66", "", "Invalid VDI type [opterr=Raw VDI or snapshot not permitted]", "")
	}
	release := c.holdWriters(vdi)
	defer release()
	held, err := c.read(vdi)
	if err != nil {
		return driverError("457", "Unable to activate changed block tracking.", err)
	}
	c.logs[vdi.uuid()] = &cbtLog{
		sr: c.db.find("SR", vdi.text("SR")).uuid(), size: vdi.integer("virtual_size"), blocks: map[int64]bool{}, since: held,
		dirty: c.written(vdi),
	}
	c.db.set(vdi, "cbt_enabled", true)
	return nil
}

// read gives what a VDI holds now, with Pool.mu released meanwhile.
func (c *call) read(vdi *object) (held contents, err error) {
	path := c.volumePath(vdi)
	err = c.unlocked(func() (err error) {
		held, err = readContents(c.ctx, path)
		return err
	})
	return held, err
}

// dropLog stops tracking. The chain ends at the last snapshot before.
func (p *Pool) dropLog(vdi *object) {
	if log := p.logs[vdi.uuid()]; log != nil {
		if parent := p.logs[log.parent]; parent != nil {
			parent.child = ""
		}
		delete(p.logs, vdi.uuid())
	}
	p.db.set(vdi, "cbt_enabled", false)
}

// loseLog is how a storage driver gives tracking up: the log goes, and a message says so.
func (p *Pool) loseLog(vdi *object, name, text string) {
	p.dropLog(vdi)
	p.say(name, 3, "VDI", vdi.uuid(), text)
}

// logSize is what a log takes on an SR of logical volumes (SM libs/sm/journaler.py); elsewhere the driver does not ask.
const logSize = 4 << 20

// snapshotLog gives a disk's log to its new snapshot, which holds what the disk held at that moment, and begins another.
func (p *Pool) snapshotLog(vdi, snapshot, sr *object, held contents) {
	log := p.logs[vdi.uuid()]
	if log == nil {
		return
	}
	for _, block := range held.changed(log.since) {
		log.blocks[block] = true
	}
	next := &cbtLog{
		sr: log.sr, size: log.size, blocks: map[int64]bool{}, since: held, parent: snapshot.uuid(), child: log.child,
		dirty: log.dirty,
	}
	log.since, log.closed, log.dirty, log.child = nil, true, false, vdi.uuid()
	p.logs[snapshot.uuid()], p.logs[vdi.uuid()] = log, next
	if parent := p.logs[log.parent]; parent != nil {
		parent.child = snapshot.uuid()
	}
	p.db.set(snapshot, "cbt_enabled", true)
	if thick(sr) && free(sr) < logSize {
		p.loseLog(vdi, "VDI_CBT_SNAPSHOT_FAILED", "Creating CBT metadata log for disk "+vdi.uuid()+" failed.")
	}
}

// mergeLog hands the log of a VDI that is destroyed on to its successor, so that other pairs stay valid.
func (p *Pool) mergeLog(uuid string) {
	log := p.logs[uuid]
	if log == nil {
		return
	}
	parent, child := p.logs[log.parent], p.logs[log.child]
	if parent != nil {
		parent.child = log.child
	}
	if child != nil {
		child.parent = log.parent
		for block := range log.blocks {
			child.blocks[block] = true
		}
	}
	delete(p.logs, uuid)
}

// activate is what happens to a log when its disk is attached: one that was not closed properly is good for nothing
// (xapi-facts §11).
func (p *Pool) activate(vdi *object, mode string) {
	log := p.logs[vdi.uuid()]
	if log == nil || mode != "RW" {
		return
	}
	if log.dirty && !p.written(vdi) {
		p.loseLog(vdi, "VDI_CBT_METADATA_INCONSISTENT", "Changed Block Tracking metadata is inconsistent for disk "+vdi.uuid()+".")
		return
	}
	log.dirty = true
}

// deactivate closes a log when the last writer has let its disk go in an orderly way.
func (p *Pool) deactivate(vdi *object) {
	if p.written(vdi) {
		return
	}
	p.forgetDurable(vdi)
	if log := p.logs[vdi.uuid()]; log != nil {
		log.dirty = log.lost
	}
}

// dataDestroyGrace is how long data_destroy waits for a snapshot's VBDs to go (xen-api ocaml/xapi/xapi_vdi.ml).
const dataDestroyGrace = 4 * time.Second

// dataDestroy frees the data of a tracked snapshot; its record and its log stay.
func (c *call) dataDestroy(vdi *object) error {
	kind := vdi.text("type")
	if kind == "cbt_metadata" {
		return nil
	}
	c.db.set(vdi, "type", "cbt_metadata") // at once, so that no new VBD gets it
	err := c.waitVBDs(vdi)
	if err == nil {
		if err = os.Remove(c.volumePath(vdi)); err != nil {
			err = driverError("80", "VDI Delete failed", err)
		}
	}
	if err != nil {
		c.db.set(vdi, "type", kind)
		return err
	}
	sr := c.db.find("SR", vdi.text("SR"))
	c.dropLink(vdi.uuid(), sr)
	c.db.take(vdi, "sm_config", parentKey)
	return c.refreshSizes(sr)
}

func (c *call) waitVBDs(vdi *object) error {
	deadline := time.NewTimer(dataDestroyGrace)
	defer deadline.Stop()
	for len(c.db.refs(vdi, "VBDs", "VBD")) > 0 {
		changed := c.db.changed
		err := c.unlocked(func() error {
			select {
			case <-changed:
				return nil
			case <-deadline.C:
				return fail("VDI_IN_USE", vdi.ref, "data_destroy")
			case <-c.ctx.Done():
				return c.ctx.Err()
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// listChangedBlocks walks from one VDI's log through its successors to the other's, and gives what was written after the
// first and up to the second: one bit a block, the first in the highest bit.
func listChangedBlocks(c *call) (any, error) {
	from, err := c.object(0)
	if err != nil {
		return nil, err
	}
	to, err := c.object(1)
	if err != nil {
		return nil, err
	}
	var bitmap []byte
	err = c.onVDI(to, "list_changed_blocks", c.db.find("SR", to.text("SR")), "vdi_list_changed_blocks", func() (err error) {
		bitmap, err = c.changedBlocks(from, to)
		return err
	})
	if err != nil {
		return nil, err
	}
	if l := c.lie("missing-bit", to, c.db.find("SR", to.text("SR"))); l != nil {
		l.leaveOut(bitmap)
	}
	return base64.StdEncoding.EncodeToString(bitmap), nil
}

func (c *call) changedBlocks(from, to *object) ([]byte, error) {
	refuse := func(why string) error {
		return driverError("460", "Failed to calculate changed blocks for given VDIs.", errors.New(why))
	}
	if from == to {
		return nil, refuse("Source and target VDI are same")
	}
	at, blocks, size := c.logs[from.uuid()], map[int64]bool{}, int64(0)
	if at == nil || c.logs[to.uuid()] == nil || from.text("SR") != to.text("SR") {
		return nil, refuse("Source and target VDI are unrelated")
	}
	size = at.size
	for uuid := from.uuid(); uuid != to.uuid(); {
		if uuid = at.child; c.logs[uuid] == nil {
			return nil, refuse("Source and target VDI are unrelated")
		}
		at = c.logs[uuid]
		if at.size < size {
			const text = "Changed block tracking log is in an inconsistent state. [opterr=Inconsistent bitmaps]"
			return nil, fail("SR_BACKEND_FAILURE_459", "", text, "")
		}
		size = at.size
		for block := range at.blocks {
			blocks[block] = true
		}
	}
	if !at.closed { // the live disk
		held, err := c.read(to)
		if err != nil {
			return nil, driverError("460", "Failed to calculate changed blocks for given VDIs.", err)
		}
		for _, block := range held.changed(at.since) {
			blocks[block] = true
		}
	}
	bitmap := make([]byte, ((size+blockSize-1)/blockSize+7)/8)
	for block := range blocks {
		bitmap[block/8] |= 0x80 >> (block % 8)
	}
	return bitmap, nil
}
