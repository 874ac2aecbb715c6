package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/understudy-dr/understudy/orchestrator/cli"
)

// version is set when a release is built (-ldflags -X main.version=…).
var version = "development"

func main() { os.Exit(run()) }

// run ends a command in order at the first signal; a second one ends the process at once.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer context.AfterFunc(ctx, stop)()
	defer stop()
	return cli.Main(ctx, version, os.Args[1:], os.Stdout, os.Stderr)
}
