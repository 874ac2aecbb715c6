package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen/wire"
)

// errRejected tells that the guest refused to let a disk go.
var errRejected = errors.New("the guest refused")

// diskTimeout bounds how long a disk takes to be there after the world has plugged it into dom0.
const diskTimeout = 20 * time.Second

// locate gives the kernel's name of a SCSI disk. Letters say nothing; the serial number stands in page 0x80 of its product data,
// after four bytes.
func locate(serial string) (string, bool) {
	pages, _ := filepath.Glob("/sys/block/sd*/device/vpd_pg80")
	for _, page := range pages {
		content, err := os.ReadFile(page)
		if err == nil && len(content) > 4 && string(bytes.Trim(content[4:], "\x00 ")) == serial {
			return filepath.Base(filepath.Dir(filepath.Dir(page))), true
		}
	}
	return "", false
}

// awaitDisk waits for a SCSI disk and gives its kernel's name.
func awaitDisk(ctx context.Context, serial string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, diskTimeout)
	defer cancel()
	for {
		name, there := locate(serial)
		if _, err := os.Stat("/dev/" + name); there && err == nil {
			return name, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return "", fmt.Errorf("dom0 has no disk with the serial number %s: %w", serial, ctx.Err())
		}
	}
}

// describe names a disk in xl's words.
func describe(ctx context.Context, d wire.Disk) (string, error) {
	name, err := awaitDisk(ctx, d.Serial)
	if err != nil {
		return "", err
	}
	access := "rw"
	if d.ReadOnly {
		access = "ro"
	}
	return fmt.Sprintf("format=raw,vdev=%s,access=%s,target=/dev/%s", d.Device, access, name), nil
}

func (d *domain) plug(ctx context.Context, disk wire.Disk) error {
	text, err := describe(ctx, disk)
	if err != nil {
		return err
	}
	return xl(ctx, "block-attach", d.text(), text)
}

// unplug returns when the guest has let the disk go. A guest that refuses says so below its directory 'error' (xapi-facts §8.3).
func (d *domain) unplug(ctx context.Context, disk wire.Disk) error {
	err := xl(ctx, "block-detach", d.text(), disk.Device)
	if err == nil || ctx.Err() != nil {
		return err
	}
	complaints := map[string]string{}
	if treeErr := d.server.store.tree(d.path(""), "error/device/vbd", complaints); treeErr != nil {
		return errors.Join(err, treeErr)
	}
	for key, complaint := range complaints {
		if strings.HasSuffix(key, "/error") && complaint != "" {
			return fmt.Errorf("%w: %s: %w", errRejected, complaint, err)
		}
	}
	return err
}

// forget takes a SCSI disk out of dom0, so that the world can unplug it. One that is not there is none.
func forget(serial string) error {
	name, there := locate(serial)
	if !there {
		return nil
	}
	return os.WriteFile("/sys/block/"+name+"/device/delete", []byte("1"), 0)
}
