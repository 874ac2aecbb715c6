package replication_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/line"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// oneWay is a world in which data connections can be opened from one side only, over a line that breaks once.
type oneWay struct {
	*world
	open report.Direction // the one for which they can

	mu     sync.Mutex
	lines  []*line.Line
	dialer string // uuid of the delegate that was seen to dial
}

// dial stands between the delegates: what the other side may not dial is refused.
func (o *oneWay) dial(address string) (string, error) {
	to := netip.MustParseAddrPort(address).Addr()
	listens := map[report.Direction]string{report.Push: "b", report.Pull: "a"}[o.open]
	pool, err := o.store.Pool(o.Context(), listens)
	if err != nil {
		return "", err
	}
	ranges, err := placement.ParseAddresses(pool.DelegateAddresses)
	if err != nil {
		return "", err
	}
	if !ranges.Contains(to) {
		return net.JoinHostPort(to.String(), "1"), nil // where nobody listens
	}
	l, err := line.Start(line.Spec{Rate: 8 * mib}, address)
	if err != nil {
		return "", err
	}
	o.mu.Lock()
	o.lines = append(o.lines, l)
	o.mu.Unlock()
	if len(o.lines) == 1 {
		l.ResetAfter(2 * mib)
		o.when(func() bool { return o.findDialer(l.Addr()) }, func() {})
	}
	return l.Addr(), nil
}

// findDialer finds the delegate whose process holds a connection to an address.
func (o *oneWay) findDialer(address string) bool {
	to := netip.MustParseAddrPort(address)
	ip := to.Addr().As4()
	remote := fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], to.Port()) // as on a little-endian machine: proc(5)
	table, err := os.ReadFile("/proc/net/tcp")
	o.must(err)
	sockets := map[string]bool{}
	for row := range strings.Lines(string(table)) {
		if fields := strings.Fields(row); len(fields) > 9 && fields[2] == remote && fields[3] == "01" {
			sockets["socket:["+fields[9]+"]"] = true
		}
	}
	if len(sockets) == 0 {
		return false
	}
	open, err := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	o.must(err)
	for _, fd := range open {
		if socket, err := os.Readlink(fd); err != nil || !sockets[socket] {
			continue
		}
		arguments, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(fd)), "cmdline"))
		if _, guest, ok := bytes.Cut(arguments, []byte("--guest\x00")); err == nil && ok {
			uuid, _, _ := strings.Cut(filepath.Base(string(guest)), ".")
			o.mu.Lock()
			o.dialer = uuid
			o.mu.Unlock()
			return true
		}
	}
	return false
}

// TestOneSideOpensConnections: where only one side can, the direction that needs no more works, and goes on after a cut; the other
// ends in an error that names it. It is the process of the delegate that is named which dials.
func TestOneSideOpensConnections(t *testing.T) {
	for _, open := range []report.Direction{report.Push, report.Pull} {
		t.Run(string(open), func(t *testing.T) {
			w := newWorld(t, layout{impatient: true})
			o := &oneWay{world: w, open: open}
			w.engine.SetLine(o.dial)
			t.Cleanup(func() {
				for _, l := range o.lines {
					l.Close()
				}
			})
			dials, listens := w.a, w.b
			if open == report.Pull {
				dials, listens = w.b, w.a
			}
			var inDialing atomic.Pointer[[]string] // uuids
			w.engine.SetReach(func(border string) {
				if border != "before transfer" {
					return
				}
				var uuids []string
				for _, vm := range w.delegates(dials) {
					uuids = append(uuids, vm.UUID)
				}
				inDialing.CompareAndSwap(nil, &uuids)
			})
			w.request.Direction, w.request.Trust = open, true
			run := w.replicate()
			w.equal()
			w.tidy(1)
			o.mu.Lock()
			if o.dialer == "" || !slices.Contains(*inDialing.Load(), o.dialer) {
				t.Errorf("delegate %q dialled, and pool %s has %v", o.dialer, dials.Name, *inDialing.Load())
			}
			o.mu.Unlock()
			if !hasEvent(run, "connection-cut") || hasEvent(run, "trust-ignored") != (open == report.Pull) {
				t.Errorf("events %v", run.Events)
			}
			if run.Direction != open || len(run.Delegates) != 2 {
				t.Fatalf("%s, with delegates %+v", run.Direction, run.Delegates)
			}
			for i, d := range run.Delegates {
				want := report.Delegate{Side: []string{"source", "target"}[i], Pool: []string{"a", "b"}[i], Host: d.Host, Address: d.Address}
				if want.Pool == dials.Name {
					want.Dials = run.Delegates[1-i].Address
				}
				if d != want || d.Host == "" {
					t.Errorf("delegate %+v, want %+v", d, want)
				}
			}

			w.write(w.simA.VDIPath(w.vm.VDIs[0]), 3*mib, []byte("since"))
			w.request.Direction = open.Reverse()
			run, err := w.engine.Replicate(t.Context(), w.request)
			var apart *replication.UnreachableError
			if !errors.As(err, &apart) || run.State != report.StateFailed || run.Direction != open.Reverse() {
				t.Fatalf("the other direction: %s, %v", run.State, err)
			}
			if apart.Dialer.Pool != listens.Name || apart.Listener.Pool != dials.Name || apart.Dialer.Dials != apart.Listener.Address {
				t.Errorf("%+v dialled %+v", apart.Dialer, apart.Listener)
			}
			for _, said := range []string{"with " + string(open.Reverse()), "--direction " + string(open), apart.Listener.Address, apart.Dialer.Address, "7811"} {
				if !strings.Contains(run.Error, said) {
					t.Errorf("%q says nothing of %q", run.Error, said)
				}
			}
			w.tidy(1)

			w.request.Direction = open
			d := w.replicate().Disks[0]
			w.equal()
			w.tidy(2)
			if d.Sent == 0 || d.Sent > 64<<10 {
				t.Errorf("the next run is %s (%s) and sends %d bytes", d.Mode, d.Cause, d.Sent)
			}
		})
	}
}

// TestDirectionChanged: of a run whose orchestrator died a job that goes the other way takes nothing over: it is undone, and another
// begun. Where nobody dials it goes on.
func TestDirectionChanged(t *testing.T) {
	for name, l := range map[string]layout{"two delegates": {}, "one delegate": {onePool: true}} {
		t.Run(name, func(t *testing.T) {
			l.sizes = []int64{4 * mib}
			w := newWorld(t, l)
			w.dieAt("before transfer")
			dead := w.pendingRuns()
			w.request.Direction, w.request.Trust = report.Pull, true
			run := w.replicate()
			w.equal()
			w.tidy(1)
			goesOn := slices.Contains(dead, run.ID) && hasEvent(run, "taken-over")
			if goesOn != l.onePool || run.Direction != report.Pull || !goesOn && !strings.Contains(textOf(run, "recovered"), "another way") {
				t.Errorf("run %s after %v goes by %s: %v", run.ID, dead, run.Direction, run.Events)
			}
		})
	}
}

// onePool are the ways within one pool for which one delegate is enough, and the number of the host that it has to be on.
var onePool = map[string]struct {
	srs  []xapisim.SRConfig
	to   string
	host int
}{
	"local to shared": {[]xapisim.SRConfig{{Name: "source", Host: 1}, {Name: "target", Shared: true}}, "target", 1},
	"shared to local": {[]xapisim.SRConfig{{Name: "source", Shared: true}, {Name: "target", Host: 1}}, "target", 1},
	"local to local":  {[]xapisim.SRConfig{{Name: "source", Host: 1}, {Name: "target", Host: 1}}, "target", 1},
	"one SR":          {[]xapisim.SRConfig{{Name: "source", Host: 1}}, "source", 1},
}

// TestOneDelegateCopies: nothing goes over a line, and what has no meaning then is told: the direction, which does not stand in the way of trust,
// and the limit. A delegate that is killed is replaced.
func TestOneDelegateCopies(t *testing.T) {
	for name, c := range onePool {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, layout{srs: c.srs, sizes: []int64{6 * mib, 4 * mib}})
			w.request.SR, w.request.Trust = c.to, true
			w.request.Limit = ratelimit.Schedule{{BytesPerSecond: 1}}
			for i, direction := range []report.Direction{report.Push, report.Pull} {
				w.write(w.simA.VDIPath(w.vm.VDIs[0]), int64(i)*mib, []byte("before this run"))
				w.request.Direction = direction
				var lost sync.Once
				if i == 1 {
					w.engine.SetReach(func(border string) {
						if border == "before transfer" {
							lost.Do(func() { w.killDelegates(w.a) })
						}
					})
				}
				run := w.replicate()
				w.equal()
				w.tidy(i + 1)
				if one := run.Delegates; len(one) != 1 || one[0].Side != "both" || one[0].Dials != "" || one[0].Host != w.simHost(c.host) {
					t.Errorf("run %d: delegates %+v", i, run.Delegates)
				}
				if hasEvent(run, "direction") != (direction == report.Pull) || !strings.Contains(textOf(run, "limit"), "no effect") || hasEvent(run, "trust-ignored") {
					t.Errorf("run %d, %s: events %v", i, direction, run.Events)
				}
				if hasEvent(run, "resumed") != (i == 1) {
					t.Errorf("run %d: events %v", i, run.Events)
				}
				for _, d := range run.Disks {
					if d.Wire != 0 || d.Mode != report.Trusted || i > 0 && (d.Sent > 64<<10 || d.Rung != string(replica.RungEmptyLeaf)) {
						t.Errorf("run %d, disk %s: %d bytes on a line, %s (%s), %d sent", i, d.Disk, d.Wire, d.Mode, d.Cause, d.Sent)
					}
				}
			}
		})
	}
}

// simHost is the name of a host of the source's pool, by its number.
func (w *world) simHost(number int) string {
	w.Helper()
	return fmt.Sprintf("a-host%d", number)
}

// TestTwoDelegatesInOnePool: between local SRs of two hosts each has its own, with an address of its own; both are removed when the
// run fails, and replaced when either is killed.
func TestTwoDelegatesInOnePool(t *testing.T) {
	w := newWorld(t, layout{srs: []xapisim.SRConfig{{Name: "source", Host: 0}, {Name: "target", Host: 1}}, sizes: []int64{8 * mib}})
	w.request.Limit = ratelimit.Schedule{{BytesPerSecond: 1 << 30}}
	pool := w.poolUUID("a")
	idle := func(points int) {
		t.Helper()
		w.tidy(points)
		if leases, err := w.store.Leases(t.Context(), pool); err != nil || len(leases) != 0 {
			t.Errorf("leases %v, %v", leases, err)
		}
	}
	w.fails(fault{w.simA, "VBD.plug", 1, "INTERNAL_ERROR"}, 0)
	idle(0)
	w.request.Trust = true
	for i, direction := range []report.Direction{report.Push, report.Push, report.Pull} {
		w.write(w.simA.VDIPath(w.vm.VDIs[0]), int64(i)*mib, []byte("before this run"))
		w.request.Direction = direction
		var lost sync.Once
		w.engine.SetReach(func(border string) {
			if border == "before transfer" && i > 0 {
				lost.Do(func() { w.killOn(w.simHost(i - 1)) })
			}
		})
		run := w.replicate()
		w.equal()
		idle(i + 1)
		if two := run.Delegates; len(two) != 2 || two[0].Host != w.simHost(0) || two[1].Host != w.simHost(1) || two[0].Address == two[1].Address ||
			(two[0].Dials == two[1].Address) != (direction == report.Push) || (two[1].Dials == two[0].Address) != (direction == report.Pull) {
			t.Errorf("run %d, %s: delegates %+v", i, direction, two)
		}
		if hasEvent(run, "direction") || strings.Contains(textOf(run, "limit"), "no effect") || hasEvent(run, "trust-ignored") != (direction == report.Pull) ||
			hasEvent(run, "delegate-lost") != (i > 0) {
			t.Errorf("run %d, %s: events %v", i, direction, run.Events)
		}
		if d := run.Disks[0]; d.Wire == 0 || i > 0 && (d.Mode == report.Trusted) != (direction == report.Push) {
			t.Errorf("run %d: %d bytes on the line, %s (%s)", i, d.Wire, d.Mode, d.Cause)
		}
	}
}

// killOn kills the delegates on a host.
func (w *world) killOn(host string) {
	hosts, err := xapi.AllRecords[xapi.Host](w.Context(), w.a.API, "host")
	w.must(err)
	for _, vm := range w.delegates(w.a) {
		if hosts[vm.ResidentOn].NameLabel == host && !w.kill(vm) {
			w.Errorf("the delegate on %s has no process that could be killed", host)
		}
	}
}

// TestOneDelegateKilled: a delegate that copies from disk to disk and is killed while it writes is replaced, and the run goes on.
func TestOneDelegateKilled(t *testing.T) {
	const size = 256 * mib // which takes longer than finding the process
	w := newWorld(t, layout{onePool: true, sizes: []int64{size}})
	w.fill(w.vm.VDIs[0], size, 9)
	w.request.Direction = report.Pull
	w.atTransfer(func() { w.killDelegates(w.a) })
	run := w.replicate()
	w.equal()
	w.tidy(1)
	if !hasEvent(run, "delegate-lost") || !hasEvent(run, "resumed") || run.Disks[0].Wire != 0 {
		t.Errorf("%d bytes on a line, events %v", run.Disks[0].Wire, run.Events)
	}
	t.Log(textOf(run, "resumed"))
}
