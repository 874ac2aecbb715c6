package cli

import (
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
)

func (a *app) delegateList() *cobra.Command {
	return &cobra.Command{
		Use: "list [POOL…]", Short: "List the delegates that are in the pools now",
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.session(c.Context())
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // only read
			pools, unreachable := s.all(c.Context(), args)
			found, err := delegate.List(c.Context(), pools...)
			if found == nil {
				found = []delegate.Info{}
			}
			// What a pool that does not answer hides is in the error; the rest is shown.
			return errors.Join(unreachable, err, a.print(found, func(w *strings.Builder) {
				var rows [][]string
				for _, d := range found {
					age := d.Age(time.Now()).Round(time.Second).String()
					rows = append(rows, []string{d.Pool, d.Name, d.UUID, dash(d.Host), dash(d.Address), string(d.PowerState), age, dash(d.Run), string(d.Ownership)})
				}
				printTable(w, []string{"POOL", "NAME", "UUID", "HOST", "ADDRESS", "STATE", "AGE", "RUN", "OURS"}, rows)
			}))
		},
	}
}
