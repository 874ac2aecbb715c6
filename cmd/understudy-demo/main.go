package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/dustin/go-humanize"
)

const (
	exitEqual     = 0
	exitFailed    = 1
	exitUsage     = 2
	exitCancelled = 130
)

// failbackSize is what the story of a failback shows in less than a minute.
const failbackSize = "256MiB"

// minDiskSize holds a file system with a tree worth showing on the first disk, and one at all on the second, a quarter as large.
const minDiskSize = 64 << 20

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("understudy-demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	keep := flags.String("keep", "", "`directory` in which the disks of the last run and demo.json are kept")
	worldName := flags.String("world", "process", "what delegates run in: `process`, or qemu, which boots the built image")
	story := flags.String("story", storyRuns, "what is told: `runs`, three of them; or failback, from a job to a failover and home again")
	sizeText := flags.String("disk-size", "", "`size` of the first disk, 4GiB or, in the qemu world, 512MiB; the second is a quarter of it")
	asJSON := flags.Bool("json", false, "print the document of demo.json on standard output, all else on standard error")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return exitEqual
	} else if err != nil {
		return exitUsage
	}
	world, err := newWorld(*worldName)
	if err != nil {
		complain(stderr, err.Error())
		return exitUsage
	}
	if *story != storyRuns && (*story != storyFailback || *worldName != "process") {
		complain(stderr, "--story is runs or, in the process world, failback")
		return exitUsage
	}
	if *story == storyFailback && *sizeText == "" {
		*sizeText = failbackSize
	}
	size, err := humanize.ParseBytes(cmp.Or(*sizeText, defaultSizes[*worldName]))
	if err != nil || size < minDiskSize || size > 1<<40 || flags.NArg() > 0 {
		complain(stderr, "--disk-size is between 64MiB and 1TiB, such as 4GiB, and there are no arguments; --help tells more")
		return exitUsage
	}
	o := options{world: world, keep: *keep, diskSize: int64(size), story: *story, out: stdout, progress: stderr}
	if *asJSON {
		o.out = stderr
	}
	document, err := demonstrate(ctx, o)
	if *asJSON && len(document.Runs)+len(document.Disks) > 0 {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		err = errors.Join(err, encoder.Encode(document))
	}
	switch {
	case ctx.Err() != nil:
		complain(stderr, "interrupted; what it had started has ended")
		return exitCancelled
	case err != nil:
		complain(stderr, err.Error())
		return exitFailed
	}
	return exitEqual
}

// complain writes to standard error. There is nowhere to say that this failed; the exit code remains.
func complain(stderr io.Writer, text string) { _, _ = fmt.Fprintln(stderr, "understudy-demo:", text) }
