package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/dataset"
	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/peers"
)

// options is the command line.
type options struct {
	size, thinSize int64
	dir, out       string
	roots          []string
	repeat         int
	only           *regexp.Regexp
	thin           string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := func() error {
		defer stop()
		if len(os.Args) > 1 && os.Args[1] == peers.LimitCommand {
			return peers.RunLimit(ctx, os.Args[2:])
		}
		o, err := parse(os.Args[1:])
		if err != nil {
			return err
		}
		return run(ctx, o)
	}()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	size := flags.String("size", "", "size of the disks, as 8G (default 8G, or less where the folder has less than five times that free)")
	thinSize := flags.String("thin-size", "", "size of the disks over the thin line (default an eighth)")
	flags.StringVar(&o.dir, "dir", "build/bench", "folder for the disks, which needs direct I/O; emptied afterwards")
	flags.StringVar(&o.out, "out", "bench", "folder for the results")
	flags.IntVar(&o.repeat, "repeat", 5, "how often each tool is measured in each case")
	only := flags.String("cases", "", "only the cases that this regular expression matches, as '^db/'")
	flags.StringVar(&o.thin, "thin", "100mbit,100ms", "the thin line, as RATE,ROUND TRIP")
	trees := flags.String("trees", "", "folders to take files from, separated by colons (default that of Go, and /usr)")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.repeat < 1 {
		return o, errors.New("-repeat must be at least 1")
	}
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, err
	}
	if o.roots = strings.Split(*trees, ":"); *trees == "" {
		out, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			return o, fmt.Errorf("the folder of Go: %w", err)
		}
		o.roots = []string{strings.TrimSpace(string(out)), "/usr"}
	}
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return o, err
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return o, err
	}
	if o.size, err = parseSize(*size); err != nil {
		return o, err
	}
	if o.size == 0 {
		if o.size, err = sizeFor(o.dir); err != nil {
			return o, err
		}
	}
	if o.thinSize, err = parseSize(*thinSize); err != nil {
		return o, err
	}
	if o.thinSize == 0 {
		o.thinSize = max(o.size/8, dataset.MinSize)
	}
	return o, nil
}

// parseSize reads a size with a binary unit and rounds it to blocks; empty is 0.
func parseSize(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	unit := strings.ToUpper(strings.TrimSuffix(strings.TrimSuffix(text, "B"), "i"))
	if strings.HasSuffix(unit, "K") || strings.HasSuffix(unit, "M") || strings.HasSuffix(unit, "G") || strings.HasSuffix(unit, "T") {
		unit += "iB"
	}
	n, err := humanize.ParseBytes(unit)
	if err != nil || n > 1<<50 {
		return 0, fmt.Errorf("size %q: write a number with K, M, G or T", text)
	}
	return int64(n) / manifest.BlockSize * manifest.BlockSize, nil
}

// What the folder must hold beside a disk of the size: three more of it, a small one, and room.
const folderTimesSize = 5

func sizeFor(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("room in %s: %w", dir, err)
	}
	free := int64(st.Bavail) * st.Bsize
	for size := int64(8 << 30); size >= 1<<30; size /= 2 {
		if size*folderTimesSize <= free {
			return size, nil
		}
	}
	return 0, fmt.Errorf("%s has only %s free: choose another folder with -dir", dir, humanize.IBytes(uint64(free)))
}

// run measures and reports, also what was measured before an error.
func run(ctx context.Context, o options) (err error) {
	began := facts(ctx, o)
	b := &bench{options: o, program: filepath.Join(o.dir, "understudy")}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", b.program, "./cmd/understudy")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the program under test: %w", err)
	}
	if err := b.measureAll(ctx); err != nil {
		b.failed = append(b.failed, "ended early: "+err.Error())
	}
	if len(b.rows) > 0 {
		if err := b.write(context.WithoutCancel(ctx), began); err != nil {
			return err
		}
	}
	if len(b.failed) > 0 {
		return fmt.Errorf("not all was measured:\n%s", strings.Join(b.failed, "\n"))
	}
	return nil
}
