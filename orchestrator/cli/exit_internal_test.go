package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// The codes are promised to scripts: this table changes only by growing.
func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("anything"), 1},
		{&placement.Infeasible{}, 1},
		{replication.ErrReplicaExists, 1},
		{usagef("no"), 2},
		{&inventory.AmbiguousError{}, 2},
		{errFindings, 3},
		{state.ErrNotFound, 4},
		{&inventory.NotFoundError{}, 4},
		{&replication.HeldError{Diverged: true}, 5},
		{&replication.HeldError{}, 5},
		{&replication.SuspendedError{}, 5},
		{&replication.SourceRunsError{}, 5},
		{&state.BusyError{}, 5},
		{state.ErrDisabled, 5},
		{xapi.ErrAuthentication, 6},
		{&xapi.CertificateError{}, 6},
		{errUntrusted, 6},
		{context.Canceled, 130},
		{state.ErrCancelled, 130},
		{errRunCancelled, 130},
	} {
		err := c.err
		if err != nil {
			err = errors.Join(fmt.Errorf("pool a: %w", err))
		}
		if got := exitCode(err); got != c.want {
			t.Errorf("%T %v ends with %d, want %d", c.err, c.err, got, c.want)
		}
		if !strings.Contains(exitCodes, fmt.Sprintf("\n%5d  ", c.want)) {
			t.Errorf("exit code %d is not documented", c.want)
		}
	}
}

func TestPathsKeepTheKeyOutOfTheState(t *testing.T) {
	for name, c := range map[string]struct {
		flag       string
		root       bool
		env        map[string]string
		state, key string
	}{
		"root":         {root: true, state: "/var/lib/understudy", key: "/etc/understudy/key"},
		"user":         {env: map[string]string{"HOME": "/home/u"}, state: "/home/u/.local/state/understudy", key: "/home/u/.config/understudy/key"},
		"XDG":          {env: map[string]string{"HOME": "/h", "XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c"}, state: "/s/understudy", key: "/c/understudy/key"},
		"relative XDG": {env: map[string]string{"HOME": "/h", "XDG_STATE_HOME": "s"}, state: "/h/.local/state/understudy", key: "/h/.config/understudy/key"},
		"variable":     {root: true, env: map[string]string{"UNDERSTUDY_STATE_DIR": "/v"}, state: "/v", key: "/etc/understudy/key"},
		"flag first":   {flag: "/f", root: true, env: map[string]string{"UNDERSTUDY_STATE_DIR": "/v"}, state: "/f", key: "/etc/understudy/key"},
	} {
		state, key, err := paths(c.flag, c.root, func(name string) string { return c.env[name] })
		if err != nil || state != c.state || key != c.key {
			t.Errorf("%s: %s, %s, %v; want %s, %s", name, state, key, err, c.state, c.key)
		}
	}
	if _, _, err := paths("", false, func(string) string { return "" }); err == nil {
		t.Error("without any directory no path is an error")
	}
}
