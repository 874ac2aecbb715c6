package replication_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	borderVariable = "REPLICATION_TEST_BORDER" // the border at which the child kills itself
	listVariable   = "REPLICATION_TEST_LIST"   // the file in which it lists those that it reaches
	choreVariable  = "REPLICATION_TEST_CHORE"  // what it does instead of replicating: resync, detach, failover, undo-failover, planned-failover, test-replica, end-test
)

// A border is where the child can be killed: before or after a recorded step, as the engine tells, and before or after a call that
// changes a pool, which is where a saga has recorded an intent and not yet what came of it.
//
//	before prepare the source · before a: VM.snapshot 1 · after a: VM.snapshot 1 · …
var reaching sync.Mutex

// reached counts how often the child came to a border: what it does twice has 'again' behind its name the second time.
var reached = map[string]int{}

// reach kills the child when it has come to its border.
func reach(border string) {
	reaching.Lock() // one after the other, and none once it is being killed
	if reached[border]++; reached[border] > 1 {
		border += strings.Repeat(" again", reached[border]-1)
	}
	if list := os.Getenv(listVariable); list != "" {
		f, err := os.OpenFile(list, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = fmt.Fprintln(f, border)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			panic(err)
		}
	}
	if border == os.Getenv(borderVariable) {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
	reaching.Unlock()
}

// watchedCalls makes borders of the calls that change a pool.
type watchedCalls struct {
	xapi.API
	pool string

	mu    sync.Mutex
	count map[string]int
}

func watchCalls(api xapi.API, pool string) xapi.API {
	return &watchedCalls{API: api, pool: pool, count: map[string]int{}}
}

// reads are calls that change nothing; an event is injected to see what the pool tells.
var reads = regexp.MustCompile(`^event\.|\.(get_|compute_)`)

func (c *watchedCalls) watch(method string, call func() error) error {
	if reads.MatchString(method) {
		return call()
	}
	c.mu.Lock()
	c.count[method]++
	name := fmt.Sprintf("%s: %s %d", c.pool, method, c.count[method])
	c.mu.Unlock()
	reach("before " + name)
	err := call()
	reach("after " + name)
	return err
}

func (c *watchedCalls) Call(ctx context.Context, method string, result any, args ...any) error {
	return c.watch(method, func() error { return c.API.Call(ctx, method, result, args...) })
}

func (c *watchedCalls) Run(ctx context.Context, method string, result *string, args ...any) error {
	return c.watch(method, func() error { return c.API.Run(ctx, method, result, args...) })
}

// plannedFailover is a failover with its source's shutdown.
const plannedFailover = "planned-failover"

// doChore is what a child does instead of replicating.
func doChore(ctx context.Context, engine *replication.Engine, chore string, pools map[string]*delegate.Pool) error {
	target := pools["b"]
	records, err := engine.Store.Replicas(ctx)
	if err != nil {
		return err
	}
	switch state.RunKind(chore) {
	case endTest:
		_, err = engine.EndTest(ctx, replication.EndTestRequest{Replica: records[0].ID, Target: target})
	case state.RunResync:
		_, err = engine.Resync(ctx, replication.ResyncRequest{Replica: records[0].ID, Target: target})
	case state.RunDetach:
		_, err = engine.Detach(ctx, replication.DetachRequest{Replica: records[0].ID, Target: target, RemoveRestorePoints: true})
	case state.RunFailover:
		_, err = engine.Failover(ctx, replication.FailoverRequest{
			Replica: records[0].ID, Target: target, Source: pools["a"], Point: os.Getenv(revertVariable),
		})
	case plannedFailover:
		_, err = engine.Failover(ctx, replication.FailoverRequest{
			Replica: records[0].ID, Target: target, Source: pools["a"], Planned: true, Sync: replication.Request{
				Source: pools["a"], Target: target, VM: "web", SR: "target", Direction: report.Push, OverwriteTarget: true, Trust: true,
			},
		})
	case state.RunUndo:
		_, err = engine.UndoFailover(ctx, replication.UndoRequest{Replica: records[0].ID, Target: target, Source: pools["a"]})
	case state.RunRehearse:
		_, err = engine.Test(ctx, replication.TestRequest{Replica: records[0].ID, Target: target, Auto: true, Steady: time.Millisecond})
	case state.RunReverse:
		_, err = engine.Reverse(ctx, replication.ReverseRequest{Replica: records[0].ID, Source: pools["a"], Target: target})
	case state.RunFailback:
		_, err = engine.Failback(ctx, replication.FailbackRequest{
			Replica: records[0].ID, Source: pools["a"], Target: target, Hard: true, Run: replication.Request{Direction: report.Pull},
		})
	default:
		err = fmt.Errorf("no such chore: %s", chore)
	}
	return err
}

// child runs a child to its end.
func (w *world) child(environment ...string) error {
	w.Helper()
	command := exec.CommandContext(w.Context(), os.Args[0])
	command.Env = append(append(os.Environ(), childVariable+"="+w.dir, cbtVariable+"="+string(w.request.CBT)), environment...)
	out, err := command.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("the child ended by itself, %w: %.2000s", err, out)
}

// dieAt has a child kill itself at a border.
func (w *world) dieAt(border string, environment ...string) {
	w.Helper()
	if err := w.child(append(environment, borderVariable+"="+border)...); err != nil {
		w.Fatalf("%s: %v", border, err)
	}
}

// borders lists those that a child reaches when nothing kills it.
func (w *world) borders(environment ...string) []string {
	w.Helper()
	list := filepath.Join(w.TempDir(), "borders")
	err := w.child(append(environment, listVariable+"="+list)...)
	if err == nil || !strings.HasSuffix(strings.TrimSpace(err.Error()), "exit status 1: the child was to be killed before") {
		w.Fatal(err)
	}
	content, err := os.ReadFile(list)
	w.must(err)
	borders := strings.Split(strings.TrimSpace(string(content)), "\n")
	if sorted := slices.Sorted(slices.Values(borders)); len(slices.Compact(sorted)) != len(borders) {
		w.Fatalf("borders that cannot be told apart: %q", borders)
	}
	return borders
}
