package xen

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/qmp"
)

const (
	scsiController = "scsi0"
	maxLUN         = 200 // at once; the controller would take more
)

// disks hot-adds files to the outer QEMU as SCSI disks. A disk is known by its serial number, never by its unit.
type disks struct {
	qmp *qmp.Client

	mu    sync.Mutex
	last  int
	units map[int]string // serial numbers by logical unit
}

func newDisks(client *qmp.Client) *disks { return &disks{qmp: client, units: map[int]string{}} }

// take chooses a unit and a serial number.
func (d *disks) take() (unit int, serial string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for unit = 1; unit <= maxLUN; unit++ {
		if _, taken := d.units[unit]; !taken {
			d.last++
			serial = "disk-" + strconv.Itoa(d.last)
			d.units[unit] = serial
			return unit, serial, nil
		}
	}
	return 0, "", fmt.Errorf("dom0 has %d disks already", maxLUN)
}

func (d *disks) give(serial string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for unit, s := range d.units {
		if s == serial {
			delete(d.units, unit)
		}
	}
}

// object is the arguments of a command of QEMU.
type object map[string]any

// add makes a file a disk of dom0 and gives its serial number.
func (d *disks) add(ctx context.Context, path string, readOnly bool) (serial string, err error) {
	direct, err := takesDirectIO(path, readOnly)
	if err != nil {
		return "", err
	}
	unit, serial, err := d.take()
	if err != nil {
		return "", err
	}
	err = d.qmp.Execute(ctx, "blockdev-add", object{
		"driver": "raw", "node-name": serial, "read-only": readOnly,
		"file": object{
			"driver": "file", "filename": path, "read-only": readOnly, "cache": object{"direct": direct},
			"locking": "off", // the pool says who may share a disk
		},
	}, nil)
	if err != nil {
		d.give(serial)
		return "", fmt.Errorf("add %s to the host: %w", path, err)
	}
	err = d.qmp.Execute(ctx, "device_add", object{
		"driver": "scsi-hd", "id": "dev-" + serial, "drive": serial, "serial": serial,
		"bus": scsiController + ".0", "channel": 0, "scsi-id": 0, "lun": unit,
		"discard_granularity": 0, // Xen's back ends under xapi offer no discard (xapi-facts §8.2)
	}, nil)
	if err != nil {
		err = errors.Join(fmt.Errorf("add %s to the host: %w", path, err), d.qmp.Execute(ctx, "blockdev-del", object{"node-name": serial}, nil))
		d.give(serial)
		return "", err
	}
	return serial, nil
}

// remove takes a disk away that dom0 has let go already. It returns when QEMU has closed the file.
func (d *disks) remove(ctx context.Context, serial string) error {
	deleted := d.qmp.Subscribe("DEVICE_DELETED")
	defer deleted.Close()
	if err := d.qmp.Execute(ctx, "device_del", object{"id": "dev-" + serial}, nil); err != nil {
		return err
	}
	for {
		event, err := deleted.Next(ctx)
		if err != nil {
			return fmt.Errorf("remove disk %s from the host: %w", serial, err)
		}
		var about struct{ Device string }
		if err := event.Decode(&about); err != nil {
			return err
		}
		if about.Device == "dev-"+serial {
			break
		}
	}
	if err := d.qmp.Execute(ctx, "blockdev-del", object{"node-name": serial}, nil); err != nil {
		return err
	}
	d.give(serial)
	return nil
}

// takesDirectIO tells whether a file can be opened past the page cache, which not every file system can.
func takesDirectIO(path string, readOnly bool) (bool, error) {
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	file, err := os.OpenFile(path, flags|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, file.Close()
}
