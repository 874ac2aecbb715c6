package replication

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	// watchWait is one wait for an event. After each the records themselves are read, because after a restart of the toolstack no
	// event may come (xapi-facts §4).
	watchWait = 5 * time.Second
	// maxRestarts is from how many restarts on a guest counts as one that does nothing else. One or two are usual: Windows restarts
	// when it has found a new machine.
	maxRestarts = 3
)

// judging is what is known of a guest that is being watched.
type judging struct {
	domain   int64    // of its present life; 0: none was seen yet
	stale    xapi.Ref // guest metrics of an earlier life
	metrics  xapi.Ref // those that were seen last
	restarts int
	evidence string    // that an operating system runs, of this life
	since    time.Time // when that was seen first
}

// watch waits until the guest has shown that it runs, or that it will not.
func (r *rehearsal) watch(ctx context.Context) error {
	j := judging{stale: r.stale}
	deadline, token := r.begun.Add(r.request.Timeout), ""
	for {
		verdict, err := r.look(ctx, &j, deadline)
		if err != nil && (ctx.Err() != nil || !xapi.IsTemporary(err)) {
			return err
		}
		if verdict != nil {
			r.result = verdict
			return nil
		}
		until := deadline
		if j.evidence != "" {
			until = j.since.Add(r.request.Steady)
		}
		token, err = r.await(ctx, token, min(watchWait, max(time.Until(until), 0)))
		if err != nil {
			return err
		}
	}
}

// await returns when the clone, or what some guest says of itself, has changed, or after a while, with the token of the next wait;
// without a token it returns at once.
// Guest metrics are watched by their class, for those of the clone are other ones after each boot (xapi-facts §14.12).
func (r *rehearsal) await(ctx context.Context, token string, wait time.Duration) (string, error) {
	batch, err := r.target.API.Events(ctx, []string{"vm/" + string(r.ref), "vm_guest_metrics"}, token, wait)
	switch {
	case err == nil:
		return batch.Token, nil
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case xapi.TokenLost(err):
		return "", nil
	case !xapi.IsTemporary(err):
		return "", err
	}
	select { // a pool that is away for a while is waited for
	case <-time.After(askPause):
		return "", nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// look judges the clone as it is now; nil: it cannot be told yet.
func (r *rehearsal) look(ctx context.Context, j *judging, deadline time.Time) (*replica.Verdict, error) {
	vm, err := xapi.GetRecord[xapi.VM](ctx, r.target.API, classVM, r.ref)
	if xapi.IsGone(err, r.ref) {
		return nil, fmt.Errorf("somebody removed the clone (VM %s) while it was watched: test again", r.clone.UUID)
	} else if err != nil {
		return nil, err
	}
	now, life := time.Now(), time.Since(r.begun).Round(time.Second)
	failed := func(format string, args ...any) *replica.Verdict {
		return &replica.Verdict{Outcome: replica.Failed, Cause: fmt.Sprintf(format, args...)}
	}
	switch vm.PowerState {
	case xapi.Halted:
		return failed("%s, %v after its start%s", r.stopped(ctx), life, j.told()), nil
	case xapi.Running:
		if j.domain != 0 && j.domain != vm.DomainID {
			j.restarts++
			j.evidence, j.stale = "", j.metrics
		}
		j.domain, j.metrics = vm.DomainID, vm.GuestMetrics
	}
	if j.restarts >= maxRestarts {
		return failed("it restarts again and again, %d times within %v", j.restarts, life), nil
	}
	if j.evidence == "" && !now.Before(deadline) {
		return failed("within %v no driver and no agent of its operating system reported; it is %s", r.request.Timeout, vm.PowerState), nil
	}
	if j.evidence == "" {
		if j.evidence, err = r.evidence(ctx, vm, j.stale); err != nil {
			return nil, err
		}
		j.since = now
	}
	if j.evidence == "" || now.Sub(j.since) < r.request.Steady {
		return nil, nil
	}
	return &replica.Verdict{Outcome: replica.Booted, Cause: fmt.Sprintf("%s, %v after its start", j.evidence, j.since.Sub(r.begun).Round(time.Second))}, nil
}

// told is what a guest that failed had shown before.
func (j *judging) told() string {
	if j.evidence == "" {
		return ""
	}
	return " (before, " + j.evidence + ")"
}

// stopped says how a guest ended, as far as its pool tells: a crash has a message.
func (r *rehearsal) stopped(ctx context.Context) string {
	var messages map[xapi.Ref]struct {
		Name string `json:"name"`
	}
	if err := r.target.API.Call(ctx, "message.get", &messages, classVM, r.clone.UUID, xapi.Time{Time: time.Unix(0, 0)}); err != nil {
		return "it stopped"
	}
	for _, m := range messages {
		if m.Name == "VM_CRASHED" {
			return "it crashed"
		}
	}
	return "it powered itself off, or was shut down"
}

// evidence is what speaks for an operating system that runs, in words; empty: nothing yet. stale are the metrics that the clone had
// before its start, which are its original's word, or those of its life before a restart (xapi-facts §7.4).
//
// A back end that is connected is evidence of drivers (§7.5), but not with UEFI: that firmware has drivers for Xen's disks of its own,
// and uses them to look for something to boot. There the agent must report, or the kernel must offer to be shut down, as Linux does
// without an agent (§7.7).
func (r *rehearsal) evidence(ctx context.Context, vm xapi.VM, stale xapi.Ref) (string, error) {
	if vm.PowerState != xapi.Running || vm.GuestMetrics.IsNull() || vm.GuestMetrics == stale {
		return "", nil
	}
	metrics, err := xapi.GetRecord[xapi.VMGuestMetrics](ctx, r.target.API, "VM_guest_metrics", vm.GuestMetrics)
	if xapi.IsGone(err, vm.GuestMetrics) {
		return "", nil // it boots again
	} else if err != nil {
		return "", err
	}
	version := metrics.PVDriversVersion
	offers := slices.ContainsFunc(slices.Sorted(maps.Keys(metrics.Other)), func(key string) bool {
		return strings.HasPrefix(key, "feature-") && metrics.Other[key] == "1"
	})
	switch {
	case !metrics.Live:
		return "", nil
	case version["major"] != "":
		text := fmt.Sprintf("its agent or drivers reported version %s.%s", version["major"], version["minor"])
		if os := metrics.OSVersion["name"]; os != "" {
			text += fmt.Sprintf(" on %.80s", os)
		}
		return text, nil
	case offers:
		return "its kernel offered to be shut down by the pool", nil
	case metrics.PVDriversDetected && vm.HVMBootParams["firmware"] != "uefi":
		return "its PV drivers connected", nil
	}
	return "", nil
}
