package delegate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	// firstDevice is the lowest position for hot-plugged disks: the first four also belong to the emulated IDE controller
	// (xapi-facts §8.1).
	firstDevice = 4
	// positionAttempts bounds the race for a position with somebody who attaches disks to our delegate by hand.
	positionAttempts = 5
	// The time between looks at the delegate's disks doubles from minDevicePause to devicePause: a disk is there within
	// milliseconds as a rule.
	minDevicePause = 5 * time.Millisecond
	devicePause    = 50 * time.Millisecond
	// driverPause is the time between looks whether the pool knows of the guest's drivers.
	driverPause = 100 * time.Millisecond
	// dropTimeout bounds the detaching of a disk that was plugged in vain.
	dropTimeout = 30 * time.Second

	codeVDIInUse        = "VDI_IN_USE"
	codeMissingDrivers  = "VM_MISSING_PV_DRIVERS"
	codeDeviceExists    = "DEVICE_ALREADY_EXISTS"
	codeAlreadyDetached = "DEVICE_ALREADY_DETACHED"
)

// Plug attaches a disk and returns its number in the delegate once the delegate lists it with at least wantSize bytes. It is
// attached for writing always, because an HVM guest cannot be given a disk read-only while it runs (xapi-facts §6.4); the
// delegate opens what it only reads read-only. A disk still in use is tried for some 45 s. Errors: ErrDiskSize, ErrNotReady
// when the delegate does not show the disk in time, those of the XenAPI.
func (d *Delegate) Plug(ctx context.Context, vdi xapi.Ref, wantSize int64) (number int, err error) {
	vbd, number, err := d.createVBD(ctx, vdi)
	if err != nil {
		return 0, d.plugError(ctx, vdi, err)
	}
	err = d.plug(ctx, vbd, vdi)
	if err == nil {
		err = d.awaitDevice(ctx, number, wantSize)
	}
	if err != nil {
		return 0, d.plugError(ctx, vdi, errors.Join(err, d.drop(ctx, vbd, number)))
	}
	return number, nil
}

func (d *Delegate) plugError(ctx context.Context, vdi xapi.Ref, err error) error {
	return fmt.Errorf("plugging VDI %s into delegate %s: %w", vdi, d.Name(), withCause(ctx, err))
}

// createVBD joins the disk to the VM at a free position. The VBD has no record of its own: it goes with the VM, which has one.
func (d *Delegate) createVBD(ctx context.Context, vdi xapi.Ref) (vbd xapi.Ref, number int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for range positionAttempts {
		if number, err = d.freePosition(ctx); err != nil {
			return "", 0, err
		}
		vbd, err = xapi.MakeVBD(ctx, d.pool.API, map[string]any{
			"VM": d.Ref, "VDI": vdi, "userdevice": strconv.Itoa(number), "bootable": false, "mode": xapi.ModeRW, "type": xapi.TypeDisk,
			"empty": false, "unpluggable": true, "other_config": map[string]string{},
			"qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
		})
		if !xapi.IsCode(err, codeDeviceExists) {
			break
		}
	}
	if err != nil {
		return "", 0, err
	}
	d.disks[number] = vbd
	return vbd, number, nil
}

func (d *Delegate) freePosition(ctx context.Context) (int, error) {
	var free []string
	if err := d.pool.API.Call(ctx, "VM.get_allowed_VBD_devices", &free, d.Ref); err != nil {
		return 0, err
	}
	var numbers []int
	for _, text := range free {
		number, err := strconv.Atoi(text)
		if _, taken := d.disks[number]; err == nil && number >= firstDevice && !taken {
			numbers = append(numbers, number)
		}
	}
	if len(numbers) == 0 {
		return 0, errors.New("no position for a disk is free; replicate VMs with fewer disks at once")
	}
	return slices.Min(numbers), nil
}

// plug tries until the disk is free, and until the pool knows of the guest's drivers: what proves them comes with the guest's
// metrics, which may lag behind the identity (xapi-facts §7.4, §7.5).
func (d *Delegate) plug(ctx context.Context, vbd, vdi xapi.Ref) error {
	deadline := time.Now().Add(d.timeout)
	attempts := 0
	for {
		err := xapi.Ensure(ctx, d.pool.API, "VBD.plug", xapi.Record(d.pool.API, "VBD", vbd, plugged), vbd)
		wait := d.pause
		switch {
		case xapi.IsCode(err, codeMissingDrivers):
			if time.Now().After(deadline) {
				return fmt.Errorf("%w; the delegate published that it has drivers, see why the pool does not take notice", err)
			}
			wait = driverPause
		case xapi.IsCode(err, codeVDIInUse):
			if attempts++; attempts == plugAttempts {
				return fmt.Errorf("still in use after %d attempts, attached to %s; unplug it there: %w", attempts, d.holders(ctx, vdi), err)
			}
		default:
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

func plugged(vbd xapi.VBD) bool { return vbd.CurrentlyAttached }

// holders names the VMs that a disk is attached to; the control domain among them is a transfer that crashed (xapi-facts §14.4).
func (d *Delegate) holders(ctx context.Context, ref xapi.Ref) string {
	vdi, err := xapi.GetRecord[xapi.VDI](ctx, d.pool.API, "VDI", ref)
	if err != nil {
		return err.Error()
	}
	var names []string
	for _, ref := range vdi.VBDs {
		vbd, err := xapi.GetRecord[xapi.VBD](ctx, d.pool.API, "VBD", ref)
		if err != nil || !vbd.CurrentlyAttached {
			continue
		}
		vm, err := xapi.GetRecord[xapi.VM](ctx, d.pool.API, "VM", vbd.VM)
		if err != nil {
			continue
		}
		names = append(names, fmt.Sprintf("VM %s (%s)", vm.NameLabel, vm.UUID))
	}
	if len(names) == 0 {
		return "no VM that the pool knows of"
	}
	return strings.Join(names, ", ")
}

// awaitDevice waits until the delegate lists a disk, with a size.
func (d *Delegate) awaitDevice(ctx context.Context, number int, wantSize int64) error {
	return d.awaitList(ctx, number, func(device *control.Device) (problem string, err error) {
		switch {
		case device == nil || device.Detached:
			return "the disk is not listed", nil
		case device.Problem != "":
			return device.Problem, nil
		case device.SizeBytes == 0:
			return "the disk has no size", nil
		case device.SizeBytes < wantSize:
			return "", fmt.Errorf("%w: it has %d bytes, %d are needed; resize the disk or scan its SR", ErrDiskSize, device.SizeBytes, wantSize)
		}
		return "", nil
	})
}

// awaitGone waits until the delegate lists a disk no more: then its number may be used for another one.
func (d *Delegate) awaitGone(ctx context.Context, number int) error {
	return d.awaitList(ctx, number, func(device *control.Device) (problem string, err error) {
		if device != nil {
			return "the disk is still listed", nil
		}
		return "", nil
	})
}

// awaitList shows look what the delegate lists under a number, nil for nothing, until it sees no problem.
func (d *Delegate) awaitList(ctx context.Context, number int, look func(*control.Device) (problem string, err error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d.timeout, fmt.Errorf("%w: its list of disks is not right within %v", ErrNotReady, d.timeout))
	defer cancel()
	problem := "it does not answer"
	for wait := minDevicePause; ; wait = min(2*wait, devicePause) {
		devices, err := d.control.Devices(ctx)
		if late := context.Cause(ctx); late != nil {
			return fmt.Errorf("%w: %s", late, problem)
		}
		if err != nil {
			return err
		}
		var device *control.Device
		if at := slices.IndexFunc(devices, func(device control.Device) bool { return device.Number == number }); at >= 0 {
			device = &devices[at]
		}
		if problem, err = look(device); problem == "" || err != nil {
			return err
		}
		_ = pause(ctx, wait) // the next look tells when ctx has ended
	}
}

// drop takes back a plug that has failed. When ctx has ended it leaves that to Retire: the caller is in a hurry, and the VBD goes
// with the VM.
func (d *Delegate) drop(ctx context.Context, vbd xapi.Ref, number int) error {
	if ctx.Err() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, dropTimeout)
	defer cancel()
	return d.destroyVBD(ctx, vbd, number)
}

// destroyVBD takes a disk from the VM, whether it was plugged or not. Its number is free when the delegate has seen it go.
func (d *Delegate) destroyVBD(ctx context.Context, vbd xapi.Ref, number int) error {
	unplugged := xapi.Record(d.pool.API, "VBD", vbd, func(v xapi.VBD) bool { return !plugged(v) })
	err := xapi.Ensure(ctx, d.pool.API, "VBD.unplug", unplugged, vbd)
	if err == nil || xapi.IsCode(err, codeAlreadyDetached) {
		err = xapi.Destroy(ctx, d.pool.API, "VBD", vbd)
	}
	if err == nil || xapi.IsCode(err, codeHandleInvalid) {
		err = d.awaitGone(ctx, number)
	}
	if err != nil {
		return fmt.Errorf("%w; when the delegate is retired its VM lets the disk go", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.disks, number)
	return nil
}

// Unplug has the delegate close a disk, flushed, and detaches it from the VM. A task that uses the disk is in the way:
// control.CodeInUse. After an error it may be called again. Calls on the VDI right afterwards may still find it in use.
func (d *Delegate) Unplug(ctx context.Context, number int) error {
	d.mu.Lock()
	vbd, ok := d.disks[number]
	d.mu.Unlock()
	if !ok {
		return fmt.Errorf("unplugging disk %d of delegate %s: it is not plugged", number, d.Name())
	}
	err := d.control.Detach(ctx, number)
	var refused *control.Error
	if errors.As(err, &refused) && refused.Code == control.CodeNotFound {
		err = nil // it was unplugged before, and what comes after that failed
	}
	if err == nil {
		err = d.destroyVBD(ctx, vbd, number)
	}
	if err != nil {
		return fmt.Errorf("unplugging disk %d of delegate %s: %w", number, d.Name(), withCause(ctx, err))
	}
	return nil
}
