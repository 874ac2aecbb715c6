package guestqemu

import (
	"context"
	"fmt"
	"maps"
	"sync"
)

// maxKeys bounds what the world may have the guest remember.
const maxKeys = 1024

// state is what the world has written, as of now.
type state struct {
	mu      sync.Mutex
	values  map[string]string
	failure error         // for good
	changed chan struct{} // closed and replaced at every change
}

func newState(values map[string]string) *state {
	return &state{values: values, changed: make(chan struct{})}
}

func (s *state) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *state) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = err
	s.notify()
}

func (s *state) apply(m message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(s.values, m.Write)
	for _, key := range m.Remove {
		delete(s.values, key)
	}
	if len(s.values) > maxKeys {
		return fmt.Errorf("%w: more than %d keys", ErrProtocol, maxKeys)
	}
	s.notify()
	return nil
}

// copy returns all values.
func (s *state) copy() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.values)
}

// await returns the value of a key once it is there and not empty. It fails with the port and ends with ctx.
func (s *state) await(ctx context.Context, key string) (string, error) {
	for {
		s.mu.Lock()
		value, failure, changed := s.values[key], s.failure, s.changed
		s.mu.Unlock()
		switch {
		case value != "":
			return value, nil
		case failure != nil:
			return "", failure
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// remove removes a key that still has the value.
func (s *state) remove(key, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values[key] == value {
		delete(s.values, key)
	}
}
