package xapi

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// taskWait is one wait for a change of a task; after each the task itself is looked at, because after a
	// restart of the toolstack no event may come (xapi-facts §3, §4).
	taskWait = 10 * time.Second
	// cancelTimeout keeps Run within a second of its caller's leaving.
	cancelTimeout = 800 * time.Millisecond
	// destroyTimeout bounds the removal of a finished task.
	destroyTimeout = 10 * time.Second
	// outagePause is the time between attempts to reach a pool that has stopped answering while a task is waited for.
	outagePause = 2 * time.Second
)

type progressKey struct{}

// WithProgress makes Run report the progress of its task, 0 to 1, whenever it changes. report is called from
// the goroutine that called Run.
func WithProgress(ctx context.Context, report func(float64)) context.Context {
	return context.WithValue(ctx, progressKey{}, report)
}

// Run runs a method as a task (Async.<method>) and waits until it ends. A reference or string that it returns is
// stored in result; nil discards it. A failed or cancelled task is an *Error. While the pool cannot be reached, the wait
// goes on for Config.Outage; after that, or when the task disappears, the error is ErrOutcomeUnknown.
//
// When ctx ends, the task is asked to stop and Run returns; the operation may still go on for a while, or
// succeed.
func (c *Client) Run(ctx context.Context, method string, result *string, args ...any) error {
	var ref Ref
	if err := c.Call(ctx, "Async."+method, &ref, args...); err != nil {
		return err
	}
	task, err := c.waitTask(ctx, ref)
	if err != nil {
		if ctx.Err() != nil {
			return errors.Join(fmt.Errorf("%s: %w", method, context.Cause(ctx)), c.cancelTask(ctx, ref))
		}
		return fmt.Errorf("%s: %w: %w", method, ErrOutcomeUnknown, err)
	}
	c.destroyTask(ctx, ref)
	switch task.Status {
	case TaskSuccess:
		return storeTaskResult(method, task.Result, result)
	case TaskFailure, TaskCancelled:
		return taskError(method, task)
	default:
		return fmt.Errorf("%s: its task ended as %q, which is no status known", method, task.Status)
	}
}

// taskWatch waits for one task; status is written last (xapi-facts §3).
type taskWatch struct {
	client *Client
	ref    Ref
	token  string
	task   Task
	report func(float64) // may be nil
	seen   float64       // the progress last reported
}

// waitTask returns the task's record once it is no longer pending.
func (c *Client) waitTask(ctx context.Context, ref Ref) (Task, error) {
	w := taskWatch{client: c, ref: ref, seen: -1}
	w.report, _ = ctx.Value(progressKey{}).(func(float64))
	var lost time.Time // since when the pool has not answered; zero: it does
	for {
		done, err := w.look(ctx)
		switch {
		case err == nil && done:
			return w.task, nil
		case err == nil:
			lost = time.Time{}
			continue
		case !IsTemporary(err):
			return w.task, err
		case lost.IsZero():
			lost = time.Now()
		case time.Since(lost) > c.config.Outage:
			return w.task, err
		}
		w.token = "" // tokens do not survive a restart of the toolstack
		if err := pause(ctx, min(outagePause, c.config.Outage/4)); err != nil {
			return w.task, err
		}
	}
}

// look waits once for a change of the task and reports whether it has ended.
func (w *taskWatch) look(ctx context.Context) (done bool, err error) {
	batch, err := w.client.Events(ctx, []string{"task/" + string(w.ref)}, w.token, taskWait)
	if w.token != "" && TokenLost(err) {
		w.token = ""
		return false, nil
	}
	if err != nil {
		return false, err
	}
	w.token = batch.Token
	for _, event := range batch.Events {
		if event.Ref != w.ref {
			continue
		}
		if event.Operation == EventDelete {
			return false, fmt.Errorf("its task %s was removed before its end was seen", w.ref)
		}
		w.task = Task{}
		if err := event.Decode(&w.task); err != nil {
			return false, err
		}
		if w.ended() {
			return true, nil
		}
	}
	if len(batch.Events) > 0 {
		return false, nil
	}
	w.task = Task{}
	if err := w.client.Call(ctx, "task.get_record", &w.task, w.ref); err != nil {
		if IsCode(err, codeHandleInvalid) {
			return false, fmt.Errorf("its task %s is gone: %w", w.ref, err)
		}
		return false, err
	}
	return w.ended(), nil
}

func (w *taskWatch) ended() bool {
	if w.report != nil && w.task.Progress != w.seen {
		w.seen = w.task.Progress
		w.report(w.seen)
	}
	return w.task.Status != TaskPending && w.task.Status != TaskCancelling
}

// cancelTask asks a task to stop, for a caller whose context has ended.
func (c *Client) cancelTask(ctx context.Context, ref Ref) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer cancel()
	if err := c.Call(ctx, "task.cancel", nil, ref); err != nil {
		return fmt.Errorf("the operation may still run, its task could not be cancelled: %w", err)
	}
	return nil
}

// destroyTask removes a finished task. A failure is not worth an error: the pool removes it after an hour.
func (c *Client) destroyTask(ctx context.Context, ref Ref) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	_ = c.Call(ctx, "task.destroy", nil, ref)
}

func taskError(method string, task Task) error {
	failure := &Error{Method: method}
	switch {
	case len(task.ErrorInfo) > 0:
		failure.Code, failure.Params = task.ErrorInfo[0], task.ErrorInfo[1:]
	case task.Status == TaskCancelled:
		failure.Code = codeTaskCancelled
	default:
		return fmt.Errorf("%s: its task failed without a cause", method)
	}
	return failure
}
