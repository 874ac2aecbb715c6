package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/boot"
	"github.com/understudy-dr/understudy/appliance/guestdir"
)

// version is set when a release is built (-ldflags -X main.version=…).
var version = "development"

// Exit codes, see the package's documentation.
const (
	exitOrdered = 0
	exitFailed  = 1
	exitUsage   = 2
)

func main() {
	switch {
	case boot.IsPowerOffCommand(os.Args[0]):
		say(os.Stderr, fmt.Sprintf("abd: %v", boot.PowerOffCommand(boot.Kernel(), boot.PowerOffWait)))
		os.Exit(exitFailed)
	case boot.IsWorkerCommand(os.Args[0]):
		os.Exit(runWorker(os.Stderr))
	case isInit(os.Args[1:]):
		os.Exit(runInit(os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(arguments []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("abd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	dir := flags.String("guest", "", "`directory` that stands for the virtual machine; for tests, refused as PID 1")
	buffered := flags.Bool("buffered", false, "open disks through the page cache, for test directories without direct I/O")
	peerWait := flags.Duration("peer-wait", 0, "how `long` the other end of a transfer is dialled; for tests (default 30s)")
	showVersion := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(arguments); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitOrdered
		}
		return exitUsage
	}
	if *showVersion {
		say(stdout, version)
		return exitOrdered
	}
	if *dir == "" || flags.NArg() > 0 {
		say(stderr, "abd: give --guest DIR and nothing else; --help tells more")
		return exitUsage
	}
	if err := work(*dir, *buffered, *peerWait, stderr); err != nil {
		say(stderr, "abd: "+err.Error())
		return exitFailed
	}
	return exitOrdered
}

// say prints a line; when even that fails there is nobody to tell.
func say(w io.Writer, line string) { _, _ = fmt.Fprintln(w, line) }

func work(dir string, buffered bool, peerWait time.Duration, console io.Writer) error {
	guest, err := guestdir.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = guest.Close() }() // nothing is written through the handle
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	appliance.LimitMemory()
	return appliance.Run(ctx, appliance.Options{
		Guest: guest, Version: version, Buffered: buffered, PeerWait: peerWait, Console: slog.NewTextHandler(console, nil),
	})
}
