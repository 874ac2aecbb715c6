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
)

// Values of Task.Status (xapi-facts §3).
const (
	TaskPending   = "pending"
	TaskSuccess   = "success"
	TaskFailure   = "failure"
	TaskCancelled = "cancelled"

	// taskCancelling exists in the data model; such a task still runs.
	taskCancelling = "cancelling"
)

type progressKey struct{}

// WithProgress makes Run report the progress of its task, 0 to 1, whenever it changes. report is called from
// the goroutine that called Run.
func WithProgress(ctx context.Context, report func(float64)) context.Context {
	return context.WithValue(ctx, progressKey{}, report)
}

// Run runs a method as a task (Async.<method>) and waits until it ends. A reference or string that it returns is
// stored in result; nil discards it. A failed or cancelled task is an *Error. When the task disappears, or the pool
// cannot be reached until it ends, the error is ErrOutcomeUnknown.
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

// waitTask returns the task's record once it is no longer pending; status is written last (xapi-facts §3).
func (c *Client) waitTask(ctx context.Context, ref Ref) (Task, error) {
	report, _ := ctx.Value(progressKey{}).(func(float64))
	var task Task
	seen := -1.0
	done := func() bool {
		if report != nil && task.Progress != seen {
			seen = task.Progress
			report(seen)
		}
		return task.Status != TaskPending && task.Status != taskCancelling
	}
	token := ""
	for {
		batch, err := c.Events(ctx, []string{"task/" + string(ref)}, token, taskWait)
		if token != "" && IsCode(err, codeTokenParseFailure) {
			token = ""
			continue
		}
		if err != nil {
			return task, err
		}
		token = batch.Token
		for _, event := range batch.Events {
			if event.Ref != ref {
				continue
			}
			if event.Operation == EventDelete {
				return task, fmt.Errorf("its task %s was removed before its end was seen", ref)
			}
			if err := event.Decode(&task); err != nil {
				return task, err
			}
			if done() {
				return task, nil
			}
		}
		if len(batch.Events) > 0 {
			continue
		}
		if err := c.Call(ctx, "task.get_record", &task, ref); err != nil {
			if IsCode(err, codeHandleInvalid) {
				return task, fmt.Errorf("its task %s is gone: %w", ref, err)
			}
			return task, err
		}
		if done() {
			return task, nil
		}
	}
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
