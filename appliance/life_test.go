package appliance_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
)

func TestStatus(t *testing.T) {
	d := launch(t)
	status, err := d.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	input := map[string]string{
		control.InputNonce:        d.nonce,
		control.InputOrchestrator: string(d.orchestrator.Fingerprint()),
		control.InputAddress:      strings.TrimSuffix(d.address, ":7811") + "/8",
	}
	if status.ConfigurationHash != control.ConfigurationHash(input) || status.Nonce != d.nonce {
		t.Errorf("status does not show the configuration: %+v", status)
	}
	if status.Version != "1.2.3" || status.Protocol != (control.Version{Major: netproto.VersionMajor, Minor: netproto.VersionMinor}) {
		t.Errorf("versions are %q, %+v", status.Version, status.Protocol)
	}
	if status.VM != "4f1b7a1e-0000-4000-8000-000000000001" || status.UniqueDomainID != "first-boot" || status.PeakRSSBytes < 1<<20 {
		t.Errorf("status is %+v", status)
	}
	if d.identity.Nonce != d.nonce || d.identity.Version != "1.2.3" || d.identity.UniqueDomainID != "first-boot" {
		t.Errorf("identity is %+v", d.identity)
	}
	for key, want := range map[string]string{
		"attr/PVAddons/MajorVersion": "8", "attr/PVAddons/BuildVersion": "1", "feature/hotplug/vbd": "1", "feature/hotplug/vif": "1",
		"control/feature-shutdown": "1", "data/os_name": "Understudy delegate 1.2.3", "data/os_distro": "understudy",
		"attr/vif/0/ipv4/0": strings.TrimSuffix(d.address, ":7811"),
	} {
		if got, _ := d.ReadPublication(key); got != want {
			t.Errorf("published %s is %q, want %q", key, got, want)
		}
	}
	for _, key := range []string{"data/os_uname", "data/ts", "data/updated"} {
		if got, _ := d.ReadPublication(key); got == "" {
			t.Errorf("%s was not published", key)
		}
	}
	d.eventually("ready logged", func() bool {
		page, err := d.Events(t.Context(), 0, 0)
		return err == nil && strings.Contains(fmt.Sprint(page.Events), "ready uptime=")
	})
	stats := d.Stats()
	if stats.Sent < 500 || stats.Received < 500 || stats.Received > 10_000 {
		t.Errorf("control bytes are %+v", stats)
	}
}

func TestKey(t *testing.T) {
	d, key := launch(t), newKey(t)
	setKey(t, key, d)
	status, err := d.Status(t.Context())
	if err != nil || status.KeyID != key.ID() {
		t.Errorf("key id is %s, %v, want %s", status.KeyID, err, key.ID())
	}
	setKey(t, key, d) // again
}

func TestPowerOff(t *testing.T) {
	d := launch(t)
	expectCode(t, d.PowerOff(t.Context(), ""), control.CodeInvalid)
	if err := d.PowerOff(t.Context(), "run 17 is over"); err != nil {
		t.Fatal(err)
	}
	d.expectOrderedEnd("run 17 is over")
}

// TestPowerOffAtOnce: a connection that nobody has called on is not waited for. A machine that is busy may take longer once, so that one
// of a few ends must be quick; with a wait none is.
func TestPowerOffAtOnce(t *testing.T) {
	var took time.Duration
	for range 5 {
		d := launch(t)
		unused, err := tls.Dial("tcp", d.address, d.orchestrator.ClientTLS(d.identity.Fingerprint, control.ALPN))
		if err != nil {
			t.Fatal(err)
		}
		defer unused.Close()
		time.Sleep(50 * time.Millisecond) // it is accepted by now
		if err := d.PowerOff(t.Context(), "run 18 is over"); err != nil {
			t.Fatal(err)
		}
		answered := time.Now()
		d.expectOrderedEnd("run 18 is over")
		if took = time.Since(answered); took < appliance.AnswerGrace {
			return
		}
	}
	t.Errorf("the end took %v: it waited for a connection without a call", took)
}

func (d *delegate) expectOrderedEnd(cause string) {
	d.t.Helper()
	start := time.Now()
	if err := d.awaitEnd(); err != nil {
		d.t.Errorf("Run is %v, want nil", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		d.t.Errorf("the end took %v", took)
	}
	if got, _ := d.ReadPublication(control.CauseKey); !strings.Contains(got, cause) {
		d.t.Errorf("published cause is %q, want %q", got, cause)
	}
}

// What ends the process around the delegate is its cause.
func TestToldToEnd(t *testing.T) {
	for cause, told := range map[string]error{"told to end": nil, "memory is short": errors.New("memory is short")} {
		d := launch(t)
		d.tell(told)
		d.expectOrderedEnd(cause)
	}
}

// It is no failure either while the address is waited for.
func TestToldToEndBeforeItListens(t *testing.T) {
	d := prepare(t)
	d.start(func(o *appliance.Options) { o.Listen = "192.0.2.1:7811" }) // a documentation address, nobody's (RFC 5737)
	time.Sleep(50 * time.Millisecond)
	d.tell(errors.New("memory is short"))
	d.expectOrderedEnd("memory is short")
}

// The pool's request ends a delegate with a task and a long poll under way.
func TestShutdown(t *testing.T) {
	p := newPair(t)
	p.source.plug(4, image(t, noise(1, diskSize)))
	send, _ := p.specs("pending", diskSize, false)
	p.source.post(send)
	polled := make(chan struct{})
	go func() {
		defer close(polled)
		_, _ = p.source.WaitTask(t.Context(), "pending") // ends with the cancelled task or a cut line
	}()
	p.source.RequestShutdown(appliance.ShutdownSuspend) // cannot be done, and ends nothing
	p.source.eventually("suspend acknowledged", p.source.Acknowledged)
	if _, err := p.source.Status(t.Context()); err != nil {
		t.Error(err)
	}
	p.source.RequestShutdown(appliance.ShutdownPowerOff)
	p.source.expectOrderedEnd("the pool asked for poweroff")
	if !p.source.Acknowledged() {
		t.Error("the request was not acknowledged")
	}
	select {
	case <-polled:
	case <-time.After(within):
		t.Error("the long poll did not end")
	}
}

func TestIdle(t *testing.T) {
	d := prepare(t)
	// Long enough that a busy machine's pauses are no silence.
	const limit = time.Second
	d.start(func(o *appliance.Options) { o.IdleTimeout = limit })
	d.connect()
	for began := time.Now(); time.Since(began) < limit*3/2; time.Sleep(50 * time.Millisecond) { // speaking keeps it alive
		if _, err := d.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	d.expectOrderedEnd("no orchestrator spoke")
}

func TestMigration(t *testing.T) {
	d := prepare(t)
	d.start(func(o *appliance.Options) { o.DomainPoll = 20 * time.Millisecond })
	d.connect()
	d.WriteDomain(appliance.Domain{VM: "4f1b7a1e-0000-4000-8000-000000000001", UniqueID: "migrated"})
	d.eventually("identity published again", func() bool {
		value, _ := d.ReadPublication(control.IdentityKey)
		return strings.HasSuffix(value, ":migrated")
	})
	status, err := d.Status(t.Context())
	if err != nil || status.UniqueDomainID != "migrated" {
		t.Errorf("status shows %q, %v", status.UniqueDomainID, err)
	}
}

func TestDetach(t *testing.T) {
	p := newPair(t)
	ctx := t.Context()
	path := image(t, noise(1, diskSize))
	p.source.plug(4, path)
	send, _ := p.specs("user", diskSize, false)
	p.source.post(send)
	expectCode(t, p.source.Detach(ctx, 4), control.CodeInUse)
	other := send
	other.ID = "other"
	_, err := p.source.StartTask(ctx, other)
	expectCode(t, err, control.CodeInUse)
	devices, err := p.source.Devices(ctx)
	if err != nil || len(devices) != 1 || !devices[0].InUse || devices[0].SizeBytes != diskSize {
		t.Errorf("devices are %+v, %v", devices, err)
	}
	if _, err := p.source.CancelTask(ctx, "user"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.source.Detach(ctx, 4); err != nil {
			t.Error(err)
		}
	}
	_, err = p.source.StartTask(ctx, other)
	expectCode(t, err, control.CodeConflict)
	expectCode(t, p.source.Detach(ctx, 9), control.CodeNotFound)
	expectClosed(t, path)
	// Unplugged and plugged it can be used again.
	p.source.Unplug(4)
	p.source.eventually("disk unplugged", func() bool {
		devices, err := p.source.Devices(ctx)
		return err == nil && len(devices) == 0
	})
	p.source.plug(4, path)
	p.source.expectDone(p.source.run(scanSpec("scan", p.key, diskSize)))
}

// expectClosed looks whether this process holds a file open.
func expectClosed(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && target == path {
			t.Errorf("%s is still open", path)
		}
	}
}

func TestUnplugUnderTask(t *testing.T) {
	p := newPair(t)
	path := image(t, noise(1, diskSize))
	p.source.plug(4, path)
	send, _ := p.specs("torn", diskSize, false)
	p.source.post(send)
	expectWaiting(t, p.source, "torn", "other end")
	p.source.Unplug(4)
	status := p.source.wait("torn")
	if status.State != control.StateFailed || !strings.Contains(status.Error, "disk 4") || !strings.Contains(status.Error, "unplugged") {
		t.Errorf("task is %s: %s", status.State, status.Error)
	}
	expectClosed(t, path)
}

func TestReadOnlyTarget(t *testing.T) {
	p := newPair(t)
	p.target.PlugImage(4, image(t, noise(2, diskSize)), true)
	p.target.eventually("disk plugged", func() bool {
		devices, err := p.target.Devices(t.Context())
		return err == nil && len(devices) == 1 && devices[0].ReadOnly
	})
	_, receive := p.specs("read-only", diskSize, true)
	status := p.target.run(receive)
	if status.State != control.StateFailed || !strings.Contains(status.Error, "read-only") {
		t.Errorf("task is %s: %s", status.State, status.Error)
	}
}

func TestMissingImage(t *testing.T) {
	d, key := launch(t), newKey(t)
	setKey(t, key, d)
	d.plug(4, "/nonexistent/disk.raw")
	devices, err := d.Devices(t.Context())
	if err != nil || len(devices) != 1 || devices[0].Problem == "" {
		t.Errorf("devices are %+v, %v, want a problem", devices, err)
	}
	status := d.run(scanSpec("scan", key, diskSize))
	if status.State != control.StateFailed || !strings.Contains(status.Error, "/nonexistent/disk.raw") {
		t.Errorf("task is %s: %s", status.State, status.Error)
	}
}

func TestBadOptions(t *testing.T) {
	if err := appliance.Run(t.Context(), appliance.Options{Version: "1"}); err == nil {
		t.Error("ran without a guest")
	}
	d := prepare(t)
	d.start(func(o *appliance.Options) { o.Version = "1:2" })
	if err := d.awaitEnd(); err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("Run is %v, want one about the version", err)
	}
}

func TestUnknownCalls(t *testing.T) {
	d := launch(t)
	_, err := d.Task(t.Context(), "missing")
	expectCode(t, err, control.CodeNotFound)
	_, err = d.Task(t.Context(), "x/y/z") // no such endpoint
	expectCode(t, err, control.CodeNotFound)
	var answer *control.Error
	if !errors.As(err, &answer) || !strings.Contains(answer.Message, "versions") {
		t.Errorf("error is %v, want the mend", err)
	}
}
