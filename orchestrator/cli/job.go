package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// jobDocument is a job without its runs.
type jobDocument struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Enabled    bool           `json:"enabled"`
	Created    time.Time      `json:"created"`
	Updated    time.Time      `json:"updated"`
	Definition job.Definition `json:"definition"`
}

func jobDocumentOf(j state.Job) jobDocument {
	return jobDocument{ID: j.ID, Name: j.Definition.Name, Enabled: j.Enabled, Created: j.Created, Updated: j.Updated, Definition: j.Definition}
}

func (a *app) jobCreate() *cobra.Command {
	var disabled bool
	var flags *jobFlags
	c := &cobra.Command{
		Use: "create NAME --from POOL --to POOL --sr SR --vm SELECTOR…", Short: "Make a job: a standing order to keep replicas", Args: cobra.ExactArgs(1),
		Long: "Notes which VMs of a pool are to have replicas in another one, and how. Nothing is replicated yet, and no pool is\n" +
			"asked: 'understudy job check NAME' tells whether the job can run.\n\n" +
			"A selector is a uuid, a name, a pattern of names ('*' for any text, '?' for one character) or 'tag:NAME'; 'uuid:',\n" +
			"'name:' and 'pattern:' before it say which one it is. Selectors are resolved anew at each run. Templates, snapshots,\n" +
			"delegates and replicas are never chosen.",
		RunE: func(c *cobra.Command, args []string) error {
			definition := job.Definition{Name: args[0]}
			if err := flags.apply(&definition); err != nil {
				return err
			}
			return a.changeJob(c.Context(), "created", func(ctx context.Context, store *state.Store) (state.Job, error) {
				if err := namePools(ctx, store, &definition); err != nil {
					return state.Job{}, err
				}
				made, err := store.CreateJob(ctx, definition)
				if err != nil || !disabled {
					return made, err
				}
				if err := store.EnableJob(ctx, made.ID, false); err != nil {
					return state.Job{}, err
				}
				return store.Job(ctx, made.ID)
			})
		},
	}
	flags = addJobFlags(c)
	c.Flags().BoolVar(&disabled, "disabled", false, "make the job disabled; 'job enable' enables it")
	required(c, "from", "to", "sr", "vm")
	return c
}

func (a *app) jobEdit() *cobra.Command {
	var flags *jobFlags
	c := &cobra.Command{
		Use: "edit NAME", Short: "Change a job; what no flag speaks of stays", Args: cobra.ExactArgs(1),
		Long: "Changes what the flags given speak of. --vm and --exclude replace the selectors that choose, or exclude; --add-vm and\n" +
			"--remove-vm change single ones. --network and --disk-sr replace the whole map. A run that is under way goes on as it\n" +
			"began. Replicas of VMs that are chosen no more stay where they are.",
		RunE: func(c *cobra.Command, args []string) error {
			if !flags.given() {
				return usagef("give a flag for what is to change: 'understudy job edit --help' lists them")
			}
			return a.changeJob(c.Context(), "changed", func(ctx context.Context, store *state.Store) (state.Job, error) {
				known, err := store.Job(ctx, args[0])
				if err != nil {
					return state.Job{}, err
				}
				if err := flags.apply(&known.Definition); err != nil {
					return state.Job{}, err
				}
				if err := namePools(ctx, store, &known.Definition); err != nil {
					return state.Job{}, err
				}
				return store.UpdateJob(ctx, known.ID, known.Definition)
			})
		},
	}
	flags = addJobFlags(c)
	flags.addEditFlags()
	return c
}

// namePools puts the uuids of the two pools into a definition, where an administrator gives their names.
func namePools(ctx context.Context, store *state.Store, d *job.Definition) error {
	for _, pool := range []*string{&d.Source, &d.Target} {
		known, err := store.Pool(ctx, *pool)
		if err != nil {
			return err
		}
		*pool = known.UUID
	}
	return nil
}

func (a *app) jobEnable(verb string, enabled bool) *cobra.Command {
	short := "Let a job run again"
	if !enabled {
		short = "Keep a job from running until it is enabled again"
	}
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.changeJob(c.Context(), verb+"d", func(ctx context.Context, store *state.Store) (state.Job, error) {
				known, err := store.Job(ctx, args[0])
				if err != nil {
					return state.Job{}, err
				}
				if err := store.EnableJob(ctx, known.ID, enabled); err != nil {
					return state.Job{}, err
				}
				return store.Job(ctx, known.ID)
			})
		},
	}
}

func (a *app) jobDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Forget a job; its replicas stay", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.changeJob(c.Context(), "deleted", func(ctx context.Context, store *state.Store) (state.Job, error) {
				known, err := store.Job(ctx, args[0])
				if err != nil {
					return state.Job{}, err
				}
				return known, store.DeleteJob(ctx, known.ID)
			})
		},
	}
}

// changeJob changes the state of a job, and says so.
func (a *app) changeJob(ctx context.Context, done string, change func(context.Context, *state.Store) (state.Job, error)) error {
	store, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // what was changed is durable
	changed, err := change(ctx, store)
	if err != nil {
		return err
	}
	return a.print(jobDocumentOf(changed), func(w *strings.Builder) { fmt.Fprintf(w, "%s job %s\n", done, changed.Definition.Name) })
}
