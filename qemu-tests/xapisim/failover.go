package xapisim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// The failures of hosts, from Go. Hosts are numbered as in Addresses; the number of a host never changes. What happens
// through the XenAPI (host.reboot, pool.designate_new_master, …) ends in the same functions.

// Coordinator is the number of the host that is the coordinator now, or was when it went down.
func (p *Pool) Coordinator() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.coordinator.number
}

// CrashHost takes the power of a host away: its listener and its connections drop, its guests are gone when the function
// returns, and the pool's records do not know of that: its VMs stay Running until the host is back or is declared dead,
// it counts as live for another Config.HostDeadDelay. A coordinator takes sessions, tasks and what it knew of deletions
// along (xapi-facts trap 8, xapi-observed); the members go on to name it in HOST_IS_SLAVE until one of them is promoted.
func (p *Pool) CrashHost(n int) error {
	h, err := p.hostNumber(n)
	if err != nil {
		return err
	}
	p.stop(h, true)
	return nil
}

// BootHost brings a host back, at its address and with its certificate: it answers HOST_STILL_BOOTING for
// Config.BootDelay, then serves. Its boot_time is new, the VMs that it ran are Halted. A host that was the coordinator
// and has been replaced comes back as a member, as after pool-recover-slaves. A member whose coordinator is down stays in
// emergency mode until there is one.
func (p *Pool) BootHost(n int) error {
	h, err := p.hostNumber(n)
	if err != nil {
		return err
	}
	return p.start(h, true)
}

// RestartToolstack restarts xapi on a host: connections drop and a coordinator forgets sessions and tasks, but guests go
// on.
func (p *Pool) RestartToolstack(n int) error {
	h, err := p.hostNumber(n)
	if err != nil {
		return err
	}
	p.stop(h, false)
	return p.start(h, false)
}

// Promote makes a member the coordinator, as high availability does, or an administrator with
// pool-emergency-transition-to-master and pool-recover-slaves: its toolstack restarts, sessions and tasks are gone, the
// other members follow it. The host that was the coordinator becomes a member, at once or when it is back.
func (p *Pool) Promote(n int) error {
	h, err := p.hostNumber(n)
	if err != nil {
		return err
	}
	return p.promote(h, true)
}

// Trouble makes a host answer every call but those of emergency mode with an error, such as HOST_STILL_BOOTING,
// HOST_HAS_NO_MANAGEMENT_IP or HOST_MASTER_CANNOT_TALK_BACK (xapi-facts §1.5); nil ends that.
func (p *Pool) Trouble(n int, e *Error) error {
	h, err := p.hostNumber(n)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	h.trouble = e
	return nil
}

func (p *Pool) hostNumber(n int) (*host, error) {
	if n < 0 || n >= len(p.hosts) {
		return nil, fmt.Errorf("xapisim: host %d of %d", n, len(p.hosts))
	}
	return p.hosts[n], nil
}

// hostOf is the server of a row of class host, or nil.
func (p *Pool) hostOf(ref string) *host {
	for _, h := range p.hosts {
		if h.ref == ref {
			return h
		}
	}
	return nil
}

// errDied is why calls end whose toolstack has gone. Nobody is left to clear up after them then: what they had made stays,
// such as the disks of half a snapshot, half a copy, half an import, and VBDs of the control domain (xapi-facts traps 4, 35).
var errDied = errors.New("the toolstack has gone")

func died(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errDied) }

// stop ends xapi on a host, and with power also its guests. It returns when nothing of them is left.
func (p *Pool) stop(h *host, power bool) {
	p.mu.Lock()
	if h.state == hostDown {
		p.mu.Unlock()
		return
	}
	h.state = hostDown
	h.end(errDied)
	server := h.server
	clear(h.local)
	if power {
		h.crashes++
	}
	var lost []*domain
	for _, d := range p.domains {
		if power && d.vm.text("resident_on") == h.ref {
			d.quiet, d.powerLost = true, true
			_ = d.guest.Kill() // one that does not die is seen by the wait below
			lost = append(lost, d)
		}
	}
	if h == p.coordinator {
		p.forget()
	}
	if power && h.revived == nil {
		p.assumeDead(h)
	}
	p.mu.Unlock()
	_ = server.Close() // what it reports are connections that broke
	for _, d := range lost {
		<-d.ended
	}
}

// assumeDead marks a host as not live when the coordinator has not heard of it for long enough (xapi-facts §6.9;
// host_assumed_dead_interval in xen-api ocaml/xapi/xapi_globs.ml).
func (p *Pool) assumeDead(h *host) {
	ctx, cancel := context.WithCancel(p.ctx)
	h.revived = cancel
	p.group.Go(func() {
		if !sleep(ctx, p.config.HostDeadDelay) {
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if ctx.Err() == nil {
			p.setLive(h, false)
		}
	})
}

func (p *Pool) setLive(h *host, live bool) {
	if row := p.db.find("host", h.ref); row != nil {
		if metrics := p.db.find("host_metrics", row.text("metrics")); metrics != nil {
			p.db.set(metrics, "live", live)
			p.db.set(metrics, "last_updated", now())
		}
	}
}

// forget loses what xapi keeps in memory only: sessions, tasks, the operations that go on, and of the past what
// event.from would need. Every object comes again as an addition (xapi-observed).
func (p *Pool) forget() {
	for _, class := range []string{"session", "task"} {
		for _, o := range p.db.all(class) {
			p.db.remove(o)
		}
	}
	clear(p.lastUse)
	clear(p.taskEnds)
	clear(p.registrations)
	for _, table := range p.db.tables {
		for _, o := range table {
			if len(o.table("current_operations")) > 0 {
				p.db.set(o, "current_operations", map[string]string{})
			}
		}
	}
	p.db.reload()
}

// start begins to serve on a host that is down.
func (p *Pool) start(h *host, power bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.state != hostDown {
		return fmt.Errorf("xapisim: host %d is up", h.number)
	}
	if p.ctx.Err() != nil {
		return errors.New("xapisim: the pool is closed")
	}
	listener, err := relisten(h.address)
	if err != nil {
		return fmt.Errorf("xapisim: host %d: %w", h.number, err)
	}
	if h.master == h && p.coordinator != h {
		h.master = p.coordinator
	}
	h.state, h.booted, h.trouble = hostBooting, h.booted || power, fail("HOST_STILL_BOOTING")
	p.serve(h, listener)
	if p.config.BootDelay <= 0 {
		p.ready(h)
		return nil
	}
	life := h.life
	p.group.Go(func() {
		if sleep(life, p.config.BootDelay) {
			p.mu.Lock()
			defer p.mu.Unlock()
			if life.Err() == nil {
				p.ready(h)
			}
		}
	})
	return nil
}

// relisten takes an address again that was just given up; the sockets of old connections may hold it for a moment.
func relisten(address string) (net.Listener, error) {
	const attempts = 50
	var failed error
	for range attempts {
		l, err := net.Listen("tcp", address)
		if err == nil {
			return l, nil
		}
		failed = err
		time.Sleep(10 * time.Millisecond)
	}
	return nil, failed
}

// ready ends the start of a host's toolstack. A member waits in emergency mode until its coordinator admits it; one that
// asks a host which is no coordinator any more gives that host's answer to its own callers (xen-api ocaml/xapi/xapi.ml).
func (p *Pool) ready(h *host) {
	h.state = hostJoining
	for admitted := true; admitted; { // a coordinator admits those that wait for it
		admitted = false
		for _, other := range p.hosts {
			master := other.master
			switch {
			case other.state != hostJoining:
			case master == other, master.state == hostServing && master.master == master:
				p.admitHost(other)
				admitted = true
			case master.state == hostServing:
				other.trouble = fail("HOST_IS_SLAVE", master.master.ip.String())
			}
		}
	}
}

// admitHost writes what a host tells its coordinator when its toolstack is up.
func (p *Pool) admitHost(h *host) {
	h.state, h.trouble = hostServing, nil
	row := p.db.find("host", h.ref)
	if row == nil {
		return
	}
	p.stamp(row, "agent_start_time")
	if h.revived != nil {
		h.revived()
		h.revived = nil
	}
	p.setLive(h, true)
	if !h.booted {
		return
	}
	h.booted = false
	p.stamp(row, "boot_time")
	if !row.boolean("enabled") && h.disabled != untilEnabled {
		p.db.set(row, "enabled", true)
	}
	if h.disabled != untilEnabled {
		h.disabled = untilBooted
	}
	for _, vm := range p.db.refs(row, "resident_VMs", "VM") {
		if vm.boolean("is_control_domain") {
			p.detachAll(vm)
		} else {
			p.haltRecords(vm)
		}
	}
}

// stamp writes a time of other_config in xapi's form, later than the one that stands there.
func (p *Pool) stamp(row *object, key string) {
	var before float64
	_, _ = fmt.Sscanf(row.table("other_config")[key], "%f", &before) // none or rubbish counts as 0
	p.db.put(row, "other_config", key, fmt.Sprintf("%d.", max(time.Now().Unix(), int64(before)+1)))
}

// promote makes a host the coordinator. With all, the other hosts are told.
func (p *Pool) promote(h *host, all bool) error {
	p.mu.Lock()
	if h.state == hostDown {
		p.mu.Unlock()
		return fmt.Errorf("xapisim: host %d is down, it cannot become the coordinator", h.number)
	}
	old := p.coordinator
	p.mu.Unlock()
	stopped := []*host{h}
	for _, other := range p.hosts { // those that change their coordinator restart, too
		if other != h && (other == old || all) && p.isUp(other) {
			stopped = append(stopped, other)
		}
	}
	for _, s := range stopped {
		p.stop(s, false)
	}
	p.mu.Lock()
	p.coordinator, h.master = h, h
	p.forget()
	for _, other := range p.hosts {
		if all || other == old && other.master == old {
			other.master = h
		}
	}
	p.db.set(p.db.all("pool")[0], "master", h.ref)
	p.mu.Unlock()
	var errs []error
	for _, s := range stopped {
		errs = append(errs, p.start(s, false))
	}
	return errors.Join(errs...)
}

func (p *Pool) isUp(h *host) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return h.state != hostDown
}

// reach refuses a call that must be carried out on a host that is down (do_op_on in xen-api
// ocaml/xapi/message_forwarding.ml).
func (p *Pool) reach(ref string) error {
	h, row := p.hostOf(ref), p.db.find("host", ref)
	if h == nil || row == nil || h.state != hostDown {
		return nil
	}
	if metrics := p.db.find("host_metrics", row.text("metrics")); metrics == nil || !metrics.boolean("live") {
		return fail("HOST_OFFLINE", ref)
	}
	return fail("CANNOT_CONTACT_HOST", ref)
}
