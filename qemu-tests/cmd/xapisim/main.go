package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const (
	exitEnded  = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run serves a pool until ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	started := false
	command := &cobra.Command{
		Use:   "xapisim",
		Short: "Runs a simulated pool that speaks the XenAPI",
		Example: "  xapisim --hosts 2 --sr nfs:shared --sr ext:local\n" +
			"  xapisim --sr lvm:thick,capacity=64GiB,garbage --vm web:8GiB,2GiB,firmware=uefi,running --network lan --network dmz",
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(*cobra.Command, []string) error {
			plan, err := o.plan()
			if err != nil {
				return err
			}
			started = true
			return serve(ctx, plan, stdout)
		},
	}
	o.flags(command)
	command.SetArgs(args)
	command.SetOut(stdout)
	command.SetErr(stderr)
	err := command.Execute()
	switch {
	case err == nil:
		return exitEnded
	case started:
		complain(stderr, err.Error())
		return exitFailed
	default:
		complain(stderr, err.Error()+"; see xapisim --help")
		return exitUsage
	}
}

// complain writes to standard error. There is nowhere to say that this failed; the exit code remains.
func complain(stderr io.Writer, text string) { _, _ = fmt.Fprintln(stderr, "xapisim:", text) }

// serve builds the pool, tells of it and waits for the end of ctx.
func serve(ctx context.Context, p plan, stdout io.Writer) (err error) {
	if p.temporary {
		if p.config.Dir, err = os.MkdirTemp("", "xapisim-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(p.config.Dir)) }()
	}
	pool, err := xapisim.New(p.config)
	if err != nil {
		return err
	}
	defer pool.Close()
	d := describe(p, pool)
	for _, vm := range p.vms {
		added, err := pool.AddVM(vm)
		if err != nil {
			return err
		}
		d.VMs = append(d.VMs, vmDescription{Name: vm.Name, UUID: added.UUID, VDIs: added.VDIs})
	}
	p.faults.Add(pool)
	if err := d.print(stdout, p.asJSON); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
