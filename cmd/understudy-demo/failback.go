package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/cli"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// The story 'failback': an administrator's commands from a job to a failover, and home again.
//
//	a: web ──job nightly──▶ b: web (replica)      the guest works in a
//	a: lost                 b: web (replica)      failover: the guest works in b
//	a: web ◀─(reverse)───── b: web (replica)      what differs goes back; the guest works in b
//	a: web ──job nightly──▶ b: web (replica)      failback: the guest works in a, in the VM that it was

// job is the story's job, and back the one that replicates back.
const (
	jobName  = "nightly"
	backName = jobName + " (reverse)"
)

// playFailback tells the story by the commands of the orchestrator's program, whose output is shown as it is.
func (d *demo) playFailback(ctx context.Context) error {
	if err := d.store.Close(); err != nil { // each command opens the state for itself
		return err
	}
	d.store = nil
	for _, part := range []func(context.Context) error{d.protect, d.lose, d.reverse, d.goHome} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return d.proveFailback(ctx)
}

// protect is every day: a job, and its runs.
func (d *demo) protect(ctx context.Context) error {
	err := d.commands(ctx,
		[]string{"job", "create", jobName, "--from", "a", "--to", "b", "--sr", storageOf("b"), "--vm", vmName, "--trust"},
		[]string{"job", "check", jobName}, []string{"job", "run", jobName})
	if err != nil {
		return err
	}
	d.say("\n# the guest adds, edits, deletes and moves files")
	if err := d.guest.firstChange(ctx, d.images[0]); err != nil {
		return err
	}
	return d.commands(ctx, []string{"job", "run", jobName})
}

// lose is the disaster: what the guest wrote last never reached the replica, and the VM is off.
func (d *demo) lose(ctx context.Context) error {
	d.say("\n# the guest writes a last note, which no run has seen, and pool a loses the VM's power")
	if err := d.guest.lastNote(ctx, d.images[0]); err != nil {
		return err
	}
	ref, err := xapi.GetByUUID(ctx, d.a.client, "VM", d.vm.UUID)
	if err != nil {
		return err
	}
	if err := d.a.client.Run(ctx, "VM.hard_shutdown", nil, ref); err != nil {
		return err
	}
	err = d.commands(ctx, []string{"replica", "failover", vmName}, []string{"replica", "list"})
	if err != nil {
		return err
	}
	if d.replicas, err = d.replicaImages(ctx); err != nil {
		return err
	}
	d.say("\n# the guest goes on in pool b, on both disks; the job's runs leave it out meanwhile")
	if err := d.guest.secondChange(ctx, d.replicas[0], d.replicas[1]); err != nil {
		return err
	}
	return d.commands(ctx, []string{"job", "run", jobName})
}

// reverse replicates back while the guest works in pool b.
func (d *demo) reverse(ctx context.Context) error {
	err := d.commands(ctx, []string{"job", "reverse", jobName}, []string{"job", "run", backName})
	if err != nil {
		return err
	}
	d.say("\n# the guest goes on in pool b")
	return d.guest.thirdChange(ctx, d.replicas[0])
}

// goHome fails back; the job's runs are what they were.
func (d *demo) goHome(ctx context.Context) error {
	err := d.commands(ctx, []string{"replica", "failback", vmName}, []string{"replica", "list"})
	if err != nil {
		return err
	}
	d.say("\n# the guest works in pool a again")
	if err := d.guest.lastNote(ctx, d.images[0]); err != nil {
		return err
	}
	return d.commands(ctx, []string{"job", "run", jobName}, []string{"job", "list"})
}

// commands are what an administrator types, and all of it must end well.
func (d *demo) commands(ctx context.Context, lines ...[]string) error {
	for _, args := range lines {
		if err := d.command(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// command shows a command and its output.
func (d *demo) command(ctx context.Context, args ...string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	words := []string{"understudy"}
	for _, arg := range args {
		if strings.ContainsAny(arg, " ()") {
			arg = "'" + arg + "'"
		}
		words = append(words, arg)
	}
	line := strings.Join(words, " ")
	d.say("\n$ %s", line)
	if code := cli.Main(ctx, "demo", args, d.out, d.progress); code != 0 {
		return fmt.Errorf("'%s' ended with exit code %d", line, code)
	}
	return nil
}

// commandEnvironment has the commands of the story find the demo's state and key.
func commandEnvironment(work string) error {
	return errors.Join(os.Setenv("UNDERSTUDY_STATE_DIR", stateDir(work)), os.Setenv("UNDERSTUDY_KEY_FILE", keyFile(work)))
}

// replicaImages finds the files behind the disks of the replica from pool a to pool b, by number.
func (d *demo) replicaImages(ctx context.Context) (paths []string, err error) {
	store, err := openState(ctx, d.work)
	if err != nil {
		return nil, err
	}
	defer store.Close() //nolint:errcheck // only read
	replicas, err := store.Replicas(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range replicas {
		if r.SourceVM != d.vm.UUID {
			continue
		}
		for _, disk := range r.Disks {
			paths = append(paths, d.b.VDIPath(disk.TargetVDI))
		}
	}
	if len(paths) != len(d.images) {
		return nil, fmt.Errorf("the replica of VM %s has %d disks, want %d: %w", vmName, len(paths), len(d.images), state.ErrNotFound)
	}
	return paths, nil
}

// proveFailback compares both VMs, and shows that the one in pool a is the one that it was.
func (d *demo) proveFailback(ctx context.Context) error {
	d.say("\n# comparing the replica with the source, byte for byte")
	replicas, err := d.replicaImages(ctx)
	if err != nil {
		return err
	}
	for i, image := range d.images {
		disk := diskDocument{Disk: fmt.Sprint(i)}
		if d.keep != "" {
			disk.Source, disk.Replica = diskFile("a", i), diskFile("b", i)
			err := errors.Join(copySparse(ctx, image, filepath.Join(d.keep, disk.Source), d.sizeOf(i)), copySparse(ctx, replicas[i], filepath.Join(d.keep, disk.Replica), d.sizeOf(i)))
			if err != nil {
				return err
			}
		}
		d.result.Disks = append(d.result.Disks, disk)
		if err := compare(ctx, image, replicas[i], d.sizeOf(i)); err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
		if err := d.guest.check(ctx, image); err != nil {
			return fmt.Errorf("disk %d: the file system is not whole: %w", i, err)
		}
		d.say("disk %d: %s are equal, and its file system is whole", i, size(d.sizeOf(i)))
	}
	if err := noneLeft(ctx, d.a, d.b); err != nil {
		return err
	}
	ref, err := xapi.GetByUUID(ctx, d.a.client, "VM", d.vm.UUID)
	if err != nil {
		return err
	}
	vm, err := xapi.GetRecord[xapi.VM](ctx, d.a.client, "VM", ref)
	if err != nil {
		return err
	}
	if vm.PowerState != xapi.Running || vm.NameLabel != vmName {
		return fmt.Errorf("VM %s of pool a is called %s and is %s", d.vm.UUID, vm.NameLabel, vm.PowerState)
	}
	d.say("VM %s (%s) of pool a is %s", vm.NameLabel, vm.UUID, vm.PowerState)
	listing, err := d.guest.list(ctx, d.images[0], "/demo")
	if err != nil {
		return err
	}
	d.say("\n/demo on its disk 0, with what the guest wrote in pool b:\n%s", listing)
	return d.writeDocument()
}
