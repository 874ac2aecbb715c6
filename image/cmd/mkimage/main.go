package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/understudy-dr/understudy/image"
	"github.com/understudy-dr/understudy/image/debian"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	work, arguments := build, os.Args[1:]
	if len(arguments) > 0 && arguments[0] == "lock" {
		work, arguments = lock, arguments[1:]
	}
	flags := flag.NewFlagSet("mkimage", flag.ContinueOnError)
	var o options
	flags.StringVar(&o.out, "out", "build/image", "`directory` for the image")
	flags.StringVar(&o.cache, "cache", "", "`directory` for fetched packages (default $UNDERSTUDY_CACHE/debian or the user's cache)")
	flags.StringVar(&o.kernel, "kernel", kernelDebian, "`kernel`: debian, or slim, a small one that is built from Debian's source")
	if err := flags.Parse(arguments); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "mkimage: %q is not understood; --help tells more\n", flags.Arg(0))
		return 2
	}
	if err := work(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		return 1
	}
	return 0
}

type options struct{ out, cache, kernel string }

const (
	kernelDebian = "debian"
	kernelSlim   = "slim"
)

// archive is where packages are kept.
func (o options) archive() (debian.Archive, error) {
	if o.cache != "" {
		return debian.Archive{Dir: o.cache}, nil
	}
	dir, err := debian.DefaultDir()
	return debian.Archive{Dir: dir}, err
}

func build(ctx context.Context, o options) error {
	archive, err := o.archive()
	if err != nil {
		return err
	}
	root, err := image.Root(ctx)
	if err != nil {
		return err
	}
	tree := ""
	switch o.kernel {
	case kernelDebian:
	case kernelSlim:
		if tree, err = image.SlimTree(ctx, root, archive, func(line string) { fmt.Println(line) }); err != nil {
			return err
		}
	default:
		return fmt.Errorf("kernel %q is unknown; there are %s and %s", o.kernel, kernelDebian, kernelSlim)
	}
	result, err := image.Build(ctx, image.Options{Root: root, Out: o.out, Archive: archive, KernelTree: tree})
	if len(result.Budgets) > 0 {
		err = errors.Join(err, image.Table(os.Stdout, result.Budgets))
	}
	if err != nil {
		return err
	}
	_, err = fmt.Printf("%s: version %s, kernel %s\n", filepath.Join(o.out, image.FileXVA), result.Contents.Version, result.Contents.KernelRelease)
	return err
}

func lock(ctx context.Context, o options) error {
	archive, err := o.archive()
	if err != nil {
		return err
	}
	root, err := image.Root(ctx)
	if err != nil {
		return err
	}
	renewed, err := image.Renew(ctx, archive)
	if err != nil {
		return err
	}
	path := filepath.Join(root, image.LockFile)
	if err := renewed.Write(path); err != nil {
		return err
	}
	_, err = fmt.Printf("%s: kernel %s %s, %d packages for the boot loader\n", path, renewed.Kernel.Name, renewed.Kernel.Version, len(renewed.Grub))
	return err
}
