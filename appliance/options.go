package appliance

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
)

// Options of Run. Zero durations take their defaults.
type Options struct {
	Guest   Guest
	Version string // of the software; 1 to 64 bytes without ':'
	// Network brings the machine's network up; nil: the configured address is there already, as with a local process.
	Network Network
	// Listen overrides the configured address and port, "ip:port".
	Listen string
	// Buffered opens disks through the page cache, for test directories on file systems without direct I/O.
	Buffered bool
	// Console takes the log beside the ring that the API serves; default none.
	Console slog.Handler

	// IdleTimeout is how long the delegate lives without a request of its orchestrator; default 15 min.
	IdleTimeout time.Duration
	// NetworkTimeout bounds Network.Up; default 40 s, in which DHCP has tried several times and two addresses may be declined.
	NetworkTimeout time.Duration
	// ListenTimeout is how long Run waits for its address to appear; default 10 s.
	ListenTimeout time.Duration
	// PeerWait and OrchestratorWait are those of tasks.Options.
	PeerWait, OrchestratorWait time.Duration
	// DomainPoll is how often Run looks whether the VM was resumed or migrated; default 2 s.
	DomainPoll time.Duration
}

func (o Options) withDefaults() (Options, error) {
	if o.Guest == nil {
		return o, errors.New("appliance: no guest")
	}
	if o.Version == "" || len(o.Version) > 64 || strings.Contains(o.Version, ":") {
		return o, fmt.Errorf("appliance: version %.80q: it has 1 to 64 bytes and no ':'", o.Version)
	}
	if o.Console == nil {
		o.Console = slog.NewTextHandler(io.Discard, nil)
	}
	for _, d := range []struct {
		field    *time.Duration
		standard time.Duration
	}{
		{&o.IdleTimeout, 15 * time.Minute},
		{&o.NetworkTimeout, 40 * time.Second},
		{&o.ListenTimeout, 10 * time.Second},
		{&o.DomainPoll, 2 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.standard
		}
	}
	return o, nil
}
