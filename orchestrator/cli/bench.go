package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/netproto/line"
	"github.com/understudy-dr/understudy/orchestrator/cli/bench"
)

// benchEndCommand runs one end of a measurement in a process of its own.
const benchEndCommand = "bench-end"

func (a *app) bench() *cobra.Command {
	var o bench.Options
	var over string
	c := &cobra.Command{
		Use:   "bench --source FILE --target FILE",
		Short: "Measure the engine between two images; the target is written",
		Long: "Brings the target to the content of the source, by the engine and over TLS on the loopback device, with each\nend in a process of its own, and prints one row of measurements. Both may be image files or block devices; where a\nfile has holes it is not read.\n\n" +
			"With --trust the target is read first, untimed, for the manifest that a trusted run has of its replica.\n" +
			"With --line the ends talk over a line that is thin and long: --line 100mbit,100ms passes 100 Mbit of TCP payload a\nsecond each way, at a round trip of 100 ms as ping would show it.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if over != "" {
				spec, err := line.ParseSpec(over)
				if err != nil {
					return usageError{err}
				}
				o.Line = &spec
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("finding this program, to run both ends: %w", err)
			}
			o.Program, o.Stderr = []string{self, benchEndCommand}, a.stderr
			row, err := bench.Run(c.Context(), o)
			if errors.Is(err, bench.ErrRefused) {
				return usageError{err}
			} else if err != nil {
				return err
			}
			return a.print(row, func(w *strings.Builder) {
				printTable(w, []string{"CASE", "TOOL", "WALL", "CPU", "PEAK RSS", "READ", "WIRE", "NOTE"}, [][]string{{
					row.Case, row.Tool, fmt.Sprintf("%.2fs", row.Wall), fmt.Sprintf("%.2fs", row.CPU),
					size(row.PeakRSS), size(row.ReadBytes), size(row.WireBytes), row.Note,
				}})
			})
		},
	}
	flags := c.Flags()
	flags.StringVar(&o.Source, "source", "", "`image` file or block device that is read")
	flags.StringVar(&o.Target, "target", "", "`image` file or block device that is written, at least as large")
	flags.BoolVar(&o.Trust, "trust", false, "give the sender the target's manifest instead of having the target scanned")
	flags.BoolVar(&o.Buffered, "buffered", false, "use the page cache, for file systems without direct I/O")
	flags.StringVar(&over, "line", "", "put a line of `RATE,DELAY` between the ends; RATE in kbit, mbit or gbit a second or 0 for none, DELAY the round trip")
	flags.StringVar((*string)(&o.Compression), "compression", "auto", "compress what travels: auto, `on` or off")
	flags.StringVar((*string)(&o.Parts), "parts", "auto", "send only the 4 KiB parts of a block that differ: auto, `on` or off")
	required(c, "source", "target")
	return c
}

func (a *app) benchEnd() *cobra.Command {
	return &cobra.Command{
		Use: benchEndCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return bench.End(c.Context(), c.InOrStdin(), a.stdout) },
	}
}
