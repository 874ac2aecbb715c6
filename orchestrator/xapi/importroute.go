package xapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"time"
)

// answerTimeout bounds what a host that works answers within seconds: a login, or where an upload goes.
const answerTimeout = 30 * time.Second

// destination is a handler of the pool that takes an upload (xapi-facts §10.4, §10.6).
type destination struct {
	what  string // in errors and in the pool's list of tasks
	path  string
	query url.Values // besides session and task
	// probe is the query of a request without a body that is sent on like the upload, and harms nothing where it is not.
	probe url.Values
	sr    Ref // whose hosts are asked
}

// addressesOf lists where a disk can be written to an SR: the hosts that have it plugged, the coordinator first.
func (c *Client) addressesOf(ctx context.Context, sr Ref) ([]string, error) {
	pbds, err := AllRecords[PBD](ctx, c, "PBD")
	if err != nil {
		return nil, err
	}
	pools, err := AllRecords[Pool](ctx, c, "pool")
	if err != nil {
		return nil, err
	}
	var master Ref
	for _, pool := range pools { // there is one
		master = pool.Master
	}
	coordinator := c.Address()
	var addresses []string
	for _, pbd := range pbds {
		if pbd.SR != sr || !pbd.CurrentlyAttached {
			continue
		}
		if pbd.Host == master {
			addresses = slices.Insert(addresses, 0, coordinator)
			continue
		}
		host, err := GetRecord[Host](ctx, c, "host", pbd.Host)
		if err != nil {
			return nil, err
		}
		address, err := besides(host.Address, coordinator)
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, address)
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("no host has SR %s plugged: plug its PBD on one", sr)
	}
	return addresses, nil
}

// uploadTo sends the body to the first host that takes it.
func (c *Client) uploadTo(ctx context.Context, addresses []string, to destination, task Ref, body *upload) error {
	var failures []error
	for _, address := range addresses {
		target, err := c.probe(ctx, address, to)
		if err == nil {
			err = c.put(ctx, target, to, task, body)
		}
		if err == nil {
			return nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil || body.requested.Load() {
			break
		}
	}
	return errors.Join(failures...)
}

// probe asks a host where an upload goes, by one without a body: the host's own address, or the one that it names in a
// redirection (302). What else it answers does not count, the upload itself will tell. The empty upload fails as a task of its
// own, which is removed.
func (c *Client) probe(ctx context.Context, address string, to destination) (target string, err error) {
	current, err := c.current()
	if err != nil {
		return "", err
	}
	var task Ref
	if err := c.Call(ctx, "task.create", &task, to.what+": which host", ""); err != nil {
		return "", err
	}
	taken := false
	defer func() { // what fails here leaves a task that the pool removes itself
		if taken {
			c.destroyTask(ctx, task) // it ends with the connection
		} else {
			_ = c.dropTask(ctx, task)
		}
	}()
	timeout := min(c.config.CallTimeout, answerTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout,
		fmt.Errorf("%s did not say within %v where an upload goes: %w", address, timeout, context.DeadlineExceeded))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, to.url(address, current.ref, task, to.probe), http.NoBody)
	if err != nil {
		return "", err
	}
	reply, err := c.http.Do(request)
	if err != nil {
		if err = withoutURL(err); ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", &transportError{fmt.Errorf("upload to %s: %w", address, err)}
	}
	defer reply.Body.Close()
	taken = reply.StatusCode == http.StatusOK
	if reply.StatusCode != http.StatusFound {
		return address, nil
	}
	_, _ = io.CopyN(io.Discard, reply.Body, pageLimit) // so that the host does not see its answer refused
	return redirected(address, reply.Header.Get("Location"))
}

// location takes the host, and its port if there is one, from the address of a redirection. It is not read as a URL: hosts write
// their IPv6 address without brackets, too.
var location = regexp.MustCompile(`^https://([^/?#@]+)(?:[/?]|$)`)

// redirected is the host that a redirection names. Whether it is one of the pool's is told by its certificate.
func redirected(from, to string) (string, error) {
	named := location.FindStringSubmatch(to)
	if named == nil {
		return "", fmt.Errorf("%s sends an upload on to an address that is none of HTTPS", from) // its text has the session in it
	}
	return besides(named[1], from)
}

// url is the address of a request to a host, under a session and a task.
func (d destination) url(address, session string, task Ref, query url.Values) string {
	query = maps.Clone(query)
	query.Set("session_id", session)
	query.Set("task_id", string(task))
	target := url.URL{Scheme: "https", Host: address, Path: d.path, RawQuery: query.Encode()}
	return target.String()
}

// withoutURL takes the address, which has the session in it, from an error of the HTTP client: it is a secret.
func withoutURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}
