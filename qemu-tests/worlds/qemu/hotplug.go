package qemu

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/qmp"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const (
	// repeatDetach is how long a guest may leave a request to give a disk up unanswered before it is made again: one that comes before
	// the guest's kernel listens is lost.
	repeatDetach = 2 * time.Second
	// releaseInterval is how often a block node that QEMU still uses is tried again.
	releaseInterval = 20 * time.Millisecond
)

// attached is a disk of a machine.
type attached struct {
	id   string // of QEMU's device and of its block node
	busy bool   // is being plugged or unplugged
}

// reserve takes a disk's place in the table.
func (g *machine) reserve(userDevice string) (unique string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, taken := g.disks[userDevice]; taken {
		return "", errors.New("the device is still there")
	}
	g.attempts++
	unique = "p" + strconv.Itoa(g.attempts)
	g.disks[userDevice] = attached{id: name(userDevice, unique), busy: true}
	return unique, nil
}

func (g *machine) settle(userDevice string, there bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !there {
		delete(g.disks, userDevice)
		return
	}
	disk := g.disks[userDevice]
	disk.busy = false
	g.disks[userDevice] = disk
}

// Plug attaches a disk. The guest finds it when its kernel looks.
func (g *machine) Plug(ctx context.Context, d xapisim.Disk) error {
	unique, err := g.reserve(d.UserDevice)
	if err != nil {
		return fmt.Errorf("plug %s: %w", d.UserDevice, err)
	}
	there, err := g.plug(ctx, d, unique)
	g.settle(d.UserDevice, there)
	if err != nil {
		return fmt.Errorf("plug %s: %w", d.UserDevice, err)
	}
	return nil
}

// plug tells whether QEMU has the disk, or may have it.
func (g *machine) plug(ctx context.Context, d xapisim.Disk, unique string) (there bool, err error) {
	node, device, err := describe(d, unique, g.blockSize)
	if err != nil {
		return false, err
	}
	var refusal *qmp.Error
	if err := g.qmp.Execute(ctx, "blockdev-add", node, nil); err != nil {
		return !errors.As(err, &refusal), err
	}
	device["bus"] = slots
	err = g.qmp.Execute(ctx, "device_add", device, nil)
	if !errors.As(err, &refusal) {
		return true, err
	}
	return false, errors.Join(err, g.release(ctx, name(d.UserDevice, unique)))
}

// Unplug asks the guest's kernel for the disk until it has given it up.
func (g *machine) Unplug(ctx context.Context, userDevice string) error {
	g.mu.Lock()
	disk, plugged := g.disks[userDevice]
	free := plugged && !disk.busy
	if free {
		g.disks[userDevice] = attached{id: disk.id, busy: true}
	}
	g.mu.Unlock()
	switch {
	case !plugged:
		return fmt.Errorf("unplug %s: no such device", userDevice)
	case !free:
		return fmt.Errorf("unplug %s: the device is being plugged or unplugged already", userDevice)
	}
	err := g.detach(ctx, disk.id)
	if err == nil {
		err = g.release(ctx, disk.id)
	}
	if err != nil && g.ended(ctx) {
		err = nil // it holds no disk any more
	}
	g.settle(userDevice, err != nil)
	if err != nil {
		return fmt.Errorf("unplug %s: %w", userDevice, err)
	}
	return nil
}

// ended tells whether the machine is gone, and waits for that where QEMU answers no more.
func (g *machine) ended(ctx context.Context) bool {
	select {
	case <-g.qmp.Done():
	default:
		return false
	}
	select {
	case <-g.life.Done():
		return true
	case <-ctx.Done():
		return false
	}
}

// detach returns when QEMU has taken the device away. Of the two events about a virtio disk, the one that names the device counts.
func (g *machine) detach(ctx context.Context, id string) error {
	events := g.qmp.Subscribe("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR")
	defer events.Close()
	for {
		err := g.qmp.Execute(ctx, "device_del", map[string]string{"id": id}, nil)
		var refusal *qmp.Error
		switch {
		case errors.As(err, &refusal) && refusal.Class == "DeviceNotFound":
			return nil // gone since an attempt that timed out
		case errors.As(err, &refusal) && strings.Contains(refusal.Description, "already in the process of unplug"):
		case err != nil:
			return err
		}
		deleted, err := awaitDeletion(ctx, events, id)
		if deleted || err != nil {
			return err
		}
	}
}

func awaitDeletion(ctx context.Context, events *qmp.Subscription, id string) (bool, error) {
	wait, cancel := context.WithTimeout(ctx, repeatDetach)
	defer cancel()
	for {
		event, err := events.Next(wait)
		if err != nil {
			if ctx.Err() == nil && wait.Err() != nil {
				return false, nil
			}
			return false, err
		}
		var data struct{ Device string }
		if err := event.Decode(&data); err != nil {
			return false, err
		}
		if data.Device != id {
			continue
		}
		if event.Name == "DEVICE_UNPLUG_GUEST_ERROR" {
			return false, xapisim.ErrDetachRejected
		}
		return true, nil
	}
}

// release closes a disk's file. QEMU may use the node for a moment after its device has gone.
func (g *machine) release(ctx context.Context, id string) error {
	for {
		err := g.qmp.Execute(ctx, "blockdev-del", map[string]string{"node-name": id}, nil)
		var refusal *qmp.Error
		if !errors.As(err, &refusal) {
			return err
		}
		if strings.Contains(refusal.Description, "Failed to find node") {
			return nil // released by an attempt that timed out
		}
		select {
		case <-time.After(releaseInterval):
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}
