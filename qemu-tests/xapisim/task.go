package xapisim

import (
	"context"
	"errors"
	"time"
)

var taskCalls = map[string]handler{
	"task.create": func(c *call) (any, error) {
		return c.newTask(c.text(0), c.text(1), nil).ref, nil
	},
	"task.destroy": taskCall(func(c *call, task *object) {
		if pending(task) {
			c.db.put(task, "current_operations", c.task, "destroy")
			return
		}
		c.db.remove(task)
	}),
	"task.cancel": taskCall(func(c *call, task *object) {
		c.db.put(task, "current_operations", "DummyRef:|"+newUUID()+"|task.cancel", "cancel") // for good, and when it has ended, too
		if cancel := c.cancels[task.ref]; cancel != nil {
			cancel()
		}
	}),
	"task.set_status":               taskCall(func(c *call, task *object) { c.db.set(task, "status", c.text(1)) }), // nothing else (transcripts)
	"task.set_progress":             taskCall(func(c *call, task *object) { c.db.set(task, "progress", c.number(1)) }),
	"task.set_result":               taskCall(func(c *call, task *object) { c.db.set(task, "result", c.text(1)) }),
	"task.set_error_info":           taskCall(func(c *call, task *object) { c.db.set(task, "error_info", c.list(1)) }),
	"task.set_other_config":         taskCall(func(c *call, task *object) { c.db.set(task, "other_config", c.table(1)) }),
	"task.remove_from_other_config": taskCall(func(c *call, task *object) { c.db.take(task, "other_config", c.text(1)) }),
	"task.add_to_other_config": func(c *call) (any, error) {
		return adder(c.db.model.Classes["task"].Field("other_config"))(c)
	},
}

func taskCall(f func(*call, *object)) handler {
	return func(c *call) (any, error) {
		task, err := c.object(0)
		if err != nil {
			return nil, err
		}
		f(c, task)
		return nil, nil
	}
}

func pending(task *object) bool {
	status := task.text("status")
	return status == "pending" || status == "cancelling"
}

func (p *Pool) newTask(name, description string, operations []string) *object {
	if operations == nil {
		operations = []string{}
	}
	p.sweepTasks()
	return p.db.insert("task", map[string]any{
		"name_label": name, "name_description": description, "created": now(), "status": "pending", "type": "<none/>",
		"resident_on": p.coordinator.ref, "allowed_operations": operations,
	})
}

// sweepTasks removes finished tasks that are old, and the oldest finished ones where there are too many (xapi-facts §3).
// xapi does so now and then; here it is done before a task is made and before one is looked at.
func (p *Pool) sweepTasks() {
	tasks := p.db.all("task")
	excess := len(tasks) - p.config.MaxTasks
	for _, task := range tasks {
		if pending(task) {
			continue
		}
		if ended := p.taskEnds[task.ref]; excess > 0 || !ended.IsZero() && time.Since(ended) > p.config.TaskLifetime {
			p.db.remove(task)
			delete(p.taskEnds, task.ref)
			excess--
		}
	}
}

// startTask carries a call out in the background and gives the task's reference at once. The caller holds Pool.mu.
func (p *Pool) startTask(c *call, name string, run handler) (any, error) {
	if p.ctx.Err() != nil {
		return nil, fail("HOST_STILL_BOOTING")
	}
	task := p.newTask(name, "", []string{"cancel"})
	ctx, cancel := context.WithCancel(c.ctx)
	c.ctx, c.task = ctx, task.ref
	p.cancels[task.ref] = cancel
	p.group.Go(func() {
		defer cancel()
		p.mu.Lock()
		defer p.mu.Unlock()
		result, err := run(c)
		delete(p.cancels, task.ref)
		if seen := cancelPoints[c.message.Class+"."+c.message.Name]; seen != "" && err == nil {
			p.db.put(task, "other_config", "debug_info:cancel_points_seen", seen)
		}
		p.finishTask(task, result, err)
	})
	return task.ref, nil
}

// cancelPoints is how often xenopsd looks whether a task is to be cancelled, which xapi notes in the tasks that it carried
// out (transcripts).
var cancelPoints = map[string]string{"VM.start": "6", "VM.hard_shutdown": "8"}

// finishTask writes in xapi's order, the status last (xapi-facts §3).
func (p *Pool) finishTask(task *object, result any, err error) {
	_, destroyed := valueKeys(task.table("current_operations"))["destroy"]
	p.db.set(task, "allowed_operations", []string{})
	p.db.set(task, "finished", now())
	p.db.set(task, "progress", 1.0)
	switch {
	case errors.Is(err, context.Canceled):
		p.db.set(task, "error_info", []string{"TASK_CANCELLED", task.ref})
		p.db.set(task, "status", "cancelled")
	case err != nil:
		e := asError(err)
		p.db.set(task, "error_info", append([]string{e.Code}, e.Params...))
		p.db.set(task, "status", "failure")
	default:
		p.db.set(task, "result", taskResult(result))
		p.db.set(task, "status", "success")
	}
	p.taskEnds[task.ref] = time.Now()
	if destroyed {
		p.db.remove(task)
	}
}

func valueKeys(table map[string]string) map[string]string {
	out := make(map[string]string, len(table))
	for key, value := range table {
		out[value] = key
	}
	return out
}

// progress tells how far a call has come; it is shown by the task of an asynchronous one.
func (c *call) progress(done float64) {
	if task := c.db.find("task", c.task); task != nil {
		c.db.set(task, "progress", done)
	}
}

// admit runs check until it no longer reports a conflict with an operation that is going on: xapi queues such calls
// inside, for up to two hours, before it gives the error (xapi-facts §3). check must look its objects up anew, because
// Pool.mu is released while waiting.
func (c *call) admit(check func() error) error {
	deadline := time.NewTimer(c.config.ConflictTimeout)
	defer deadline.Stop()
	for {
		err := check()
		if !isCode(err, "OTHER_OPERATION_IN_PROGRESS") {
			return err
		}
		if c.queued >= c.config.MaxQueue {
			return fail("TOO_MANY_PENDING_TASKS")
		}
		c.queued++
		changed := c.db.changed
		waited := c.unlocked(func() error {
			select {
			case <-changed:
				return nil
			case <-deadline.C:
				return err
			case <-c.ctx.Done():
				return c.ctx.Err()
			}
		})
		c.queued--
		if waited != nil {
			return waited
		}
	}
}

// begin marks an operation on an object as going on; the function that it returns ends it.
func (c *call) begin(o *object, operation string) (end func()) {
	c.db.put(o, "current_operations", c.task, operation)
	return func() { c.db.take(o, "current_operations", c.task) }
}

// busy is the conflict with what is going on on an object, or nil.
func busy(o *object, besides ...string) error {
	for task, operation := range o.table("current_operations") {
		allowed := false
		for _, b := range besides {
			allowed = allowed || b == operation
		}
		if !allowed {
			return fail("OTHER_OPERATION_IN_PROGRESS", o.class.Name, o.ref, operation, task)
		}
	}
	return nil
}

// alive refuses an object that was destroyed while a call waited.
func alive(o *object) error {
	if o.deleted {
		return fail("HANDLE_INVALID", o.class.Name, o.ref)
	}
	return nil
}
