package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/cli/progress"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
)

// imageName is the image's file name, as it is built and shipped.
const imageName = "abd.xva"

func (a *app) delegateDeploy() *cobra.Command {
	var spec delegate.DeploySpec
	c := &cobra.Command{
		Use:   "deploy POOL --sr SR",
		Short: "Make a template of the delegate's image in a storage repository of a pool",
		Long: "Checks the delegate's image, imports it into SR and makes a template of it, from which delegates are cloned. Best\n" +
			"is an SR that all hosts see. When its version is there already, nothing is done.\n\n" +
			"Without --image it is " + imageName + " beside this program, else build/image/" + imageName + " below the working directory.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if spec.Image == "" {
				var err error
				if spec.Image, err = findImage(); err != nil {
					return err
				}
			}
			return a.deploy(c.Context(), args[0], spec)
		},
	}
	flags := c.Flags()
	flags.StringVar(&spec.SR, "sr", "", "storage repository of the template, by `name` or uuid")
	flags.StringVar(&spec.Network, "network", "", "network of the delegates, by `name` or uuid (default: that of 'pool add --delegate-network', else of the hosts' management)")
	flags.StringVar(&spec.Image, "image", "", "`file` with the image, an XVA")
	flags.BoolVar(&spec.Upgrade, "upgrade", false, "take the place of older versions on the SR, which are removed afterwards")
	required(c, "sr")
	return c
}

// findImage looks where the image is kept when nobody says so.
func findImage() (string, error) {
	places := []string{filepath.Join("build", "image", imageName)}
	if program, err := os.Executable(); err == nil {
		places = append([]string{filepath.Join(filepath.Dir(program), imageName)}, places...)
	}
	for _, path := range places {
		if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return path, nil // one that cannot be read is told when it is opened
		}
	}
	return "", usagef("the delegate's image is neither %s: name it with --image, or build it with 'make image'", strings.Join(places, " nor "))
}

func (a *app) deploy(ctx context.Context, pool string, spec delegate.DeploySpec) error {
	s, err := a.session(ctx)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // the deployment's end is durable
	if spec.Pool, err = s.pool(ctx, pool); err != nil {
		return err
	}
	display := progress.New(a.stderr)
	defer display.Close()
	spec.Log = a.logger(display)
	spec.Observe = func(p delegate.DeployProgress) {
		if p.Size > 0 {
			display.Amount(p.Step, p.Sent, p.Size)
		} else {
			display.Step(p.Step)
		}
	}
	deployed, err := delegate.Deploy(ctx, spec)
	display.Close()
	if err != nil {
		return err
	}
	return a.print(deployed, func(w *strings.Builder) { writeDeployed(w, deployed) })
}

func writeDeployed(w *strings.Builder, d delegate.Deployed) {
	if d.Existing {
		fmt.Fprintf(w, "version %s is deployed already: %s (%s) on SR %s of pool %s\n", d.Version, d.Name, d.UUID, d.SRName, d.Pool)
	} else {
		fmt.Fprintf(w, "deployed version %s as %s (%s) on SR %s of pool %s, network %s, in %s\n",
			d.Version, d.Name, d.UUID, d.SRName, d.Pool, d.Network, d.Duration.Round(10*time.Millisecond))
	}
	for _, old := range d.Removed {
		fmt.Fprintf(w, "removed %s (%s)\n", old.Name, old.UUID)
	}
	for _, old := range d.Kept {
		fmt.Fprintf(w, "note: %s (%s) was not deployed by this installation and stays\n", old.Name, old.UUID)
	}
	if !d.Existing {
		fmt.Fprintf(w, "'understudy delegate test %s' tells whether it works\n", d.Pool)
	}
}
