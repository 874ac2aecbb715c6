package control

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/understudy-dr/understudy/manifest"
)

// Status asks who the delegate is.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, request{method: http.MethodGet, path: "status"}, nil, &s)
}

// SetKey gives the delegate the domain's digest key, which it keeps in memory alone.
func (c *Client) SetKey(ctx context.Context, key manifest.Key) error {
	return c.call(ctx, request{method: http.MethodPut, path: "key"}, KeyRequest{Key: key.Bytes(), ID: key.ID()}, nil)
}

// SetLimit bounds what all sends of the delegate put on their lines together, from now on and those under way included, in bytes a
// second; 0 takes the limit back. A delegate works for one run, so that this is the limit of its job. What it receives and copies
// inside itself is not limited.
func (c *Client) SetLimit(ctx context.Context, bytesPerSecond int64) error {
	return c.call(ctx, request{method: http.MethodPut, path: "limit"}, LimitRequest{BytesPerSecond: bytesPerSecond}, nil)
}

// Devices lists the plugged disks by number.
func (c *Client) Devices(ctx context.Context) (devices []Device, err error) {
	return devices, c.call(ctx, request{method: http.MethodGet, path: "devices"}, nil, &devices)
}

// Detach has a disk closed for good, so that it may be unplugged; it was flushed by the task that wrote it. While a task uses
// the disk the answer is CodeInUse. Repeating it is harmless.
func (c *Client) Detach(ctx context.Context, number int) error {
	return c.call(ctx, request{method: http.MethodPost, path: fmt.Sprintf("devices/%d/detach", number)}, nil, nil)
}

// StartTask posts a task. Posting the same again answers with the task as it stands; another specification under the same name
// is a CodeConflict.
func (c *Client) StartTask(ctx context.Context, spec TaskSpec) (s TaskStatus, err error) {
	return s, c.call(ctx, request{method: http.MethodPost, path: "tasks"}, spec, &s)
}

// Tasks lists all tasks, those that ended included, in the order of posting.
func (c *Client) Tasks(ctx context.Context) (tasks []TaskStatus, err error) {
	return tasks, c.call(ctx, request{method: http.MethodGet, path: "tasks"}, nil, &tasks)
}

// Task tells how a task stands.
func (c *Client) Task(ctx context.Context, id string) (TaskStatus, error) {
	return c.PollTask(ctx, id, "", 0)
}

// PollTask waits until the task's state is another than seen, at most for wait (and MaxWait), and tells how it stands.
func (c *Client) PollTask(ctx context.Context, id string, seen State, wait time.Duration) (s TaskStatus, err error) {
	r := request{method: http.MethodGet, path: taskPath(id), wait: wait}
	if seen != "" {
		r.query = map[string][]string{"seen": {string(seen)}, "wait": {wait.String()}}
	}
	return s, c.call(ctx, r, nil, &s)
}

// WaitTask waits until the task has ended, however it did.
func (c *Client) WaitTask(ctx context.Context, id string) (TaskStatus, error) {
	var seen State
	for {
		s, err := c.PollTask(ctx, id, seen, MaxWait)
		if err != nil || s.State.Ended() {
			return s, err
		}
		seen = s.State
	}
}

// CancelTask cancels a task and returns when it has ended. A task that had ended stays as it was.
func (c *Client) CancelTask(ctx context.Context, id string) (s TaskStatus, err error) {
	return s, c.call(ctx, request{method: http.MethodDelete, path: taskPath(id)}, nil, &s)
}

// Events waits for events after a sequence number, at most for wait.
func (c *Client) Events(ctx context.Context, sequence int64, wait time.Duration) (p EventPage, err error) {
	r := request{method: http.MethodGet, path: "events", query: after(sequence, wait), wait: wait}
	return p, c.call(ctx, r, nil, &p)
}

// PowerOff has the delegate stop its tasks and power itself off; cause is published.
func (c *Client) PowerOff(ctx context.Context, cause string) error {
	return c.call(ctx, request{method: http.MethodPost, path: "poweroff"}, PowerOffRequest{Cause: cause}, nil)
}

// PutKnown gives a task the extent digests against which it reports.
func (c *Client) PutKnown(ctx context.Context, id string, extents []manifest.Digest) error {
	return c.putExtents(ctx, request{path: taskPath(id, "known")}, extents)
}

// PutBaseline gives a task the extent digests of a sink that it trusts.
func (c *Client) PutBaseline(ctx context.Context, id string, sink int, extents []manifest.Digest) error {
	r := request{path: taskPath(id, "baseline")}
	r.query = map[string][]string{"sink": {strconv.Itoa(sink)}}
	return c.putExtents(ctx, r, extents)
}

func (c *Client) putExtents(ctx context.Context, r request, extents []manifest.Digest) error {
	r.method, r.binary = http.MethodPut, true
	r.wait = time.Minute // 8 MiB a TiB over a slow line
	r.body = make([]byte, 0, len(extents)*len(manifest.Digest{}))
	for i := range extents {
		r.body = append(r.body, extents[i][:]...)
	}
	return c.call(ctx, r, nil, nil)
}
