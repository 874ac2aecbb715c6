package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
)

// Main runs one command line, without the program's name, and returns the exit code. It reads standard input only where a command
// says so. The command ends soon after ctx does. Version is what 'understudy version' prints.
func Main(ctx context.Context, version string, args []string, stdout, stderr io.Writer) int {
	a := &app{version: version, stdout: stdout, stderr: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if !a.started { // cobra's own: it found no command to run, or its flags and arguments do not fit
		err = usageError{err}
	}
	if ctx.Err() != nil && exitCode(err) == exitFailed {
		err = errors.Join(context.Canceled, err)
	}
	code := exitCode(err)
	a.complain(errorText(err))
	if a.json && !a.printed {
		if err := a.print(failure{Error: err.Error(), ExitCode: code}, nil); err != nil {
			a.complain(errorText(err))
		}
	}
	return code
}

// failure is the document of a command that failed and had nothing else to print.
type failure struct {
	Error    string `json:"error"`
	ExitCode int    `json:"exit_code"`
}

// errorText is what a person reads: the cause with its mend, further causes indented below, and where help is for wrong usage.
func errorText(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	text := "understudy: " + strings.Join(lines, "\n  ") + "\n"
	var usage usageError
	if errors.As(err, &usage) {
		text += "  see 'understudy help'\n"
	}
	return text
}

// app is one command line: the flags that every command has, and where output goes.
type app struct {
	version        string
	stdout, stderr io.Writer

	stateDir string
	json     bool
	logLevel slog.Level

	started bool // a command's own work has begun
	printed bool // the one document of --json is out
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:               "understudy",
		Short:             "Keeps standby copies of Xen virtual machines",
		Long:              "Understudy replicates virtual machines between storage repositories, hosts, pools and sites\nof XenServer and XCP-ng, and moves only what changed.",
		SilenceUsage:      true,
		SilenceErrors:     true,
		Version:           a.version,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.stateDir, "state-dir", "", "`directory` with the state database (default $"+stateDirVariable+", /var/lib/understudy for root, else of the user)")
	flags.BoolVar(&a.json, "json", false, "print one JSON document on standard output")
	flags.TextVar(&a.logLevel, "log-level", slog.LevelWarn, "least `level` of log lines on standard error: debug, info, warn, error")
	root.AddCommand(
		group("pool", "The pools that understudy works with", a.poolAdd(), a.poolList(), a.poolCheck(), a.poolRemove()),
		group("delegate", "The appliance VMs that read and write disks", a.delegateDeploy(), a.delegateTest(), a.delegateList()),
		group("replica", "Standby copies of VMs", a.replicaList(), a.replicaShow(), a.replicaVerify(),
			a.replicaTrust(), a.replicaDistrust(), a.replicaResync(), a.replicaDetach(), a.replicaPoints(), a.replicaRevert(),
			a.replicaFailover(), a.replicaUndo(), a.replicaCommit(), a.replicaTest(), a.replicaFailback()),
		group("job", "Standing orders to keep replicas of VMs", a.jobCreate(), a.jobEdit(), a.jobShow(), a.jobList(), a.jobCheck(), a.jobRun(),
			a.jobCancel(), a.jobDelete(), a.jobEnable("enable", true), a.jobEnable("disable", false), a.jobReverse(), a.jobFailback()),
		group("run", "Executions of jobs, and of single commands", a.runList(), a.runShow(), a.runWatch(), a.runRetry(), a.runCancel()),
		a.replicate(), a.gc(), a.bench(), a.benchEnd(), a.printVersion(), exitCodesTopic(),
	)
	root.Args, root.RunE = wantVerb, nameVerb
	a.markStart(root)
	return root
}

// group is a noun; it does nothing without a verb.
func group(noun, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: noun, Short: short, Args: wantVerb, RunE: nameVerb}
	c.AddCommand(verbs...)
	return c
}

// wantVerb refuses what cobra took for an argument because no command has this name.
func wantVerb(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("there is no command '%s %s'", c.CommandPath(), args[0])
	for c.SuggestionsMinimumDistance = 1; c.SuggestionsMinimumDistance <= 2; c.SuggestionsMinimumDistance++ { // of letters, the nearest first
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			text += "; did you mean '" + c.CommandPath() + " " + near[0] + "'?"
			break
		}
	}
	return usageError{errors.New(text)}
}

func nameVerb(c *cobra.Command, _ []string) error {
	var verbs []string
	for _, verb := range c.Commands() {
		if verb.IsAvailableCommand() {
			verbs = append(verbs, verb.Name())
		}
	}
	return usagef("'%s' needs a command: %s", c.CommandPath(), strings.Join(verbs, ", "))
}

// markStart notes for every command that its own work has begun.
func (a *app) markStart(c *cobra.Command) {
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			a.started = true
			return run(c, args)
		}
	}
	for _, child := range c.Commands() {
		a.markStart(child)
	}
}

// logger writes the log lines of a command to w.
func (a *app) logger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: a.logLevel}))
}
