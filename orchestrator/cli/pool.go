package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
)

func (a *app) poolList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the pools", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			store, err := a.open(c.Context())
			if err != nil {
				return err
			}
			defer store.Close() //nolint:errcheck // only read
			known, err := store.Pools(c.Context())
			if err != nil {
				return err
			}
			documents := make([]poolDocument, len(known))
			rows := make([][]string, len(known))
			for i, p := range known {
				documents[i] = documentOf(p)
				rows[i] = []string{p.Name, p.UUID, strings.Join(p.Addresses, ","), p.Username, dash(p.DelegateAddresses), moment(p.Added)}
			}
			return a.print(documents, func(w *strings.Builder) {
				printTable(w, []string{"NAME", "UUID", "ADDRESSES", "USER", "DELEGATE ADDRESSES", "ADDED"}, rows)
			})
		},
	}
}

func (a *app) poolRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Forget a pool that no job is about and no replica comes from or lies in", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			store, err := a.open(c.Context())
			if err != nil {
				return err
			}
			defer store.Close() //nolint:errcheck // what was removed is durable
			known, err := store.Pool(c.Context(), args[0])
			if err != nil {
				return err
			}
			if err := store.RemovePool(c.Context(), known.Name); err != nil {
				return err
			}
			return a.print(documentOf(known), func(w *strings.Builder) {
				fmt.Fprintf(w, "removed pool %s; nothing in the pool itself was changed\n", known.Name)
			})
		},
	}
}

// isTerminal reports whether somebody sits behind an input.
func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}
