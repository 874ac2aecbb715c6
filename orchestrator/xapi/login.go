package xapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// maxRedirects bounds how many HOST_IS_SLAVE answers are followed from one address: one leads to the
// coordinator, a second happens when it moves meanwhile.
const maxRedirects = 3

// forgetTimeout bounds the attempt to end a session that was left.
const forgetTimeout = 2 * time.Second

// renew replaces a session that no longer works. Of several callers with the same stale session one logs in.
func (c *Client) renew(ctx context.Context, stale session) error {
	select {
	case c.logins <- struct{}{}:
		defer func() { <-c.logins }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	current, err := c.current()
	if err != nil {
		return err
	}
	if current != stale {
		return nil
	}
	fresh, err := c.login(ctx, stale)
	if err != nil {
		return err
	}
	if stale.ref != "" {
		c.forget(ctx, fresh.address, stale.ref)
	}
	c.learnMembers(ctx, fresh)
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.session = fresh
	}
	c.mu.Unlock()
	if closed {
		// Close has logged out the stale session only; this one would stay for a day.
		if _, _, err := c.roundTrip(ctx, c.config.CallTimeout, fresh.address, "session.logout", []any{fresh.ref}); err != nil {
			return errors.Join(ErrClosed, err)
		}
		return ErrClosed
	}
	return nil
}

// forget ends a session that the pool may still know: one that was left because its coordinator was not reached for a moment
// would stay for a day. Mostly it is gone.
func (c *Client) forget(ctx context.Context, address, ref string) {
	ctx, cancel := context.WithTimeout(ctx, forgetTimeout)
	defer cancel()
	_, _, _ = c.roundTrip(ctx, forgetTimeout, address, "session.logout", []any{ref})
}

// login tries the last coordinator, then every configured address, then the members that a coordinator told of. A coordinator that
// was not reached goes to the end.
func (c *Client) login(ctx context.Context, last session) (session, error) {
	var addresses []string
	know := func(address string) {
		if address != "" && !slices.Contains(addresses, address) {
			addresses = append(addresses, address)
		}
	}
	know(last.address)
	for _, address := range c.config.Addresses {
		know(address)
	}
	for _, member := range c.trust.known() {
		know(member.Address)
	}
	if last.silent {
		addresses = append(addresses[1:], last.address)
	}
	var failures []error
	mute := map[string]error{} // by address: why there was no answer
	for _, address := range addresses {
		fresh, err := c.loginAt(ctx, address, mute)
		if err == nil {
			return fresh, nil
		}
		if ctx.Err() != nil {
			return session{}, fmt.Errorf("log in to %s: %w", address, context.Cause(ctx))
		}
		failures = append(failures, fmt.Errorf("log in to %s: %w", address, err))
		// A wrong password is wrong everywhere, and repeating it may lock the account.
		if errors.Is(err, ErrAuthentication) {
			break
		}
	}
	return session{}, errors.Join(failures...)
}

// loginAt logs in at one address, or at the coordinator that it names. All members may name one that is gone: an address that did
// not answer is not tried again, and noted.
func (c *Client) loginAt(ctx context.Context, address string, mute map[string]error) (session, error) {
	for range maxRedirects {
		if err := mute[address]; err != nil {
			return session{}, err
		}
		raw, _, err := c.roundTrip(ctx, min(c.config.CallTimeout, answerTimeout), address, "session.login_with_password",
			[]any{c.config.Username, c.config.Password, "1.0", c.config.Originator})
		var failure *Error
		switch {
		case err == nil:
			var ref string
			if err := decodeResult("session.login_with_password", raw, &ref); err != nil {
				return session{}, err
			}
			return session{address: address, ref: ref}, nil
		case IsCode(err, codeAuthenticationFailed):
			return session{}, fmt.Errorf("%w of %q: set the right ones for this pool", ErrAuthentication, c.config.Username)
		case errors.As(err, &failure) && failure.Code == codeHostIsSlave && len(failure.Params) > 0:
			if address, err = besides(failure.Params[0], address); err != nil {
				return session{}, err
			}
		default:
			if isTransport(err) {
				mute[address] = err
			}
			return session{}, err
		}
	}
	return session{}, fmt.Errorf("no coordinator found: %d hosts in a row named another one, the last %s", maxRedirects, address)
}
