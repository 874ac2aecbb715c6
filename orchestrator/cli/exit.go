package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/runner"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// Exit codes. They are stable: scripts decide on them. exitCodes is their documentation.
const (
	exitOK             = 0
	exitFailed         = 1
	exitUsage          = 2
	exitFindings       = 3
	exitNotFound       = 4
	exitHeld           = 5
	exitAuthentication = 6
	exitCancelled      = 130 // 128 + SIGINT, as of a shell
)

const exitCodes = `Exit codes of understudy:

    0  done
    1  failed; of a job's run: not every VM was committed, but for those that have
       failed over
    2  wrong usage: an unknown command, flag or value
    3  findings: 'pool check' or 'replica verify' found something amiss, 'job check'
       something that stands in the way of a run, or 'replica test --auto' a restore
       point that does not boot
    4  not found: a pool, VM, storage repository, replica, job, run or test
    5  held: the replica has diverged, is running, has failed over, or another run is
       at work on it; its source VM runs; a run of the job is under way, or the job
       is disabled
    6  the pool refused the login, or showed a certificate that was not accepted
  130  cancelled: this command, or the run that it waits for

They are stable. With --json, standard output holds exactly one document; when a
command has nothing else to say, it is {"error": "…", "exit_code": n}.
`

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usagef makes a usageError.
func usagef(format string, values ...any) error { return usageError{fmt.Errorf(format, values...)} }

// errFindings says that findings have been printed.
var errFindings = errors.New("there are findings")

// errRunCancelled says that the run which a command waited for was cancelled, by whomever.
var errRunCancelled = errors.New("cancelled")

// exitCode maps the error of a command to the code that the process ends with.
func exitCode(err error) int {
	var (
		usage       usageError
		certificate *xapi.CertificateError
		missing     *inventory.NotFoundError
		ambiguous   *inventory.AmbiguousError
		held        *replication.HeldError
		suspended   *replication.SuspendedError
		turned      *replica.FailoverError
		runs        *replication.SourceRunsError
		reversed    *replication.ReverseError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, errFindings):
		return exitFindings
	case errors.Is(err, xapi.ErrAuthentication), errors.As(err, &certificate), errors.Is(err, errUntrusted):
		return exitAuthentication
	case errors.As(err, &missing), errors.Is(err, state.ErrNotFound), errors.Is(err, replication.ErrNoTest):
		return exitNotFound
	case errors.As(err, &ambiguous):
		return exitUsage
	case errors.As(err, &held), errors.As(err, &suspended), errors.As(err, &turned), errors.As(err, &runs), errors.As(err, &reversed),
		errors.Is(err, state.ErrBusy), errors.Is(err, state.ErrDisabled), errors.Is(err, runner.ErrNothingToReverse), errors.Is(err, runner.ErrNothingToFailBack):
		return exitHeld
	case errors.Is(err, context.Canceled), errors.Is(err, state.ErrCancelled), errors.Is(err, errRunCancelled):
		return exitCancelled
	default:
		return exitFailed
	}
}

// exitCodesTopic is 'understudy help exit-codes'.
func exitCodesTopic() *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodes}
}
