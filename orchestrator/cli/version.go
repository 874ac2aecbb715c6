package cli

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/netproto"
)

// versionDocument names the program and what it speaks.
type versionDocument struct {
	Version  string `json:"version"`
	Protocol string `json:"protocol"` // major.minor, between delegates
	Go       string `json:"go"`
}

func (a *app) printVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			protocol := netproto.Version{Major: netproto.VersionMajor, Minor: netproto.VersionMinor}.String()
			return a.print(versionDocument{a.version, protocol, runtime.Version()}, func(w *strings.Builder) {
				fmt.Fprintf(w, "understudy %s, protocol %s, %s\n", a.version, protocol, runtime.Version())
			})
		},
	}
}
