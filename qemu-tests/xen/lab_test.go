//go:build xen || xenhvm

package xen_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/lan"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const (
	mib = 1 << 20
	// spawnTimeout is long: an idle machine boots a PV delegate in some ten seconds, a busy one under emulation takes many times that,
	// and HVM ten times that again.
	spawnTimeout = 10 * time.Minute
	password     = "a simulated pool's"
	storage      = "storage" // the SR of every pool
)

// lab is what all tests share: one Xen host and its network.
type lab struct {
	dir      string // for disks, on a file system with direct I/O
	consoles string
	lan      *lan.LAN
	host     *xen.Host
	pools    int // so far, for their addresses
}

var shared *lab

func TestMain(m *testing.M) {
	code := 1
	if l, err := newLab(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		shared = l
		code = m.Run()
		if err := l.close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func newLab(ctx context.Context) (*lab, error) {
	build, err := filepath.Abs("../../build")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(image()); err != nil {
		return nil, fmt.Errorf("%w: make image builds it", err)
	}
	l := &lab{consoles: filepath.Join(build, "consoles", "xen")}
	if err := os.RemoveAll(l.consoles); err != nil {
		return nil, err
	}
	if l.dir, err = os.MkdirTemp(build, "xen-"); err != nil {
		return nil, err
	}
	socketDir, err := os.MkdirTemp("", "lan-")
	if err != nil {
		return nil, err
	}
	if l.lan, err = lan.New(netip.MustParsePrefix("10.77.0.0/24"), socketDir); err != nil {
		return nil, err
	}
	began := time.Now()
	if l.host, err = xen.New(ctx, xen.Options{LAN: l.lan, Dir: l.consoles}); err != nil {
		return nil, err
	}
	fmt.Printf("dom0 is up after %v\n", time.Since(began).Round(100*time.Millisecond))
	return l, nil
}

func (l *lab) close() error {
	socketDir := filepath.Dir(l.lan.Socket())
	for _, end := range []func() error{
		l.host.Close, l.lan.Close, func() error { return os.RemoveAll(socketDir) }, func() error { return os.RemoveAll(l.dir) },
	} {
		if err := end(); err != nil {
			return err
		}
	}
	return nil
}

// image is the file that is deployed.
func image() string {
	path, err := filepath.Abs("../../build/image/abd.xva")
	if err != nil {
		panic(err)
	}
	return path
}

// site is a simulated pool with the image deployed, as the orchestrator knows it.
type site struct {
	*xapisim.Pool
	delegate *delegate.Pool
}

// newStore opens an orchestrator's state for a test.
func newStore(t *testing.T) *state.Store {
	t.Helper()
	dir := t.TempDir()
	secrets, err := state.LoadOrCreateSecrets(filepath.Join(dir, "state"), filepath.Join(dir, "key"), func(string) string { return "" })
	must(t, err)
	store, err := state.Open(t.Context(), filepath.Join(dir, "state"), secrets)
	must(t, err)
	t.Cleanup(func() { must(t, store.Close()) })
	return store
}

// newSite starts a pool whose delegates are guests in one mode, and deploys the image to it as an administrator does.
func newSite(t *testing.T, store *state.Store, name string, mode xen.Mode) *site {
	t.Helper()
	dir, err := os.MkdirTemp(shared.dir, name+"-")
	must(t, err)
	sim, err := xapisim.New(xapisim.Config{
		Name: name, Dir: dir, Password: password, World: shared.host.World(mode),
		SRs: []xapisim.SRConfig{{Name: storage, Shared: true}}, GuestMetricsDelay: time.Second,
	})
	must(t, err)
	t.Cleanup(sim.Close)
	client, err := xapi.Dial(t.Context(), xapi.Config{
		Addresses: sim.Addresses(), Username: "root", Password: password, Fingerprints: sim.Fingerprints(), Originator: "xen test",
	})
	must(t, err)
	t.Cleanup(func() { must(t, client.Close(context.WithoutCancel(t.Context()))) })
	pools, err := xapi.AllRecords[xapi.Pool](t.Context(), client, "pool")
	must(t, err)
	shared.pools++ // addresses are never used again: switches and neighbours remember them
	first := shared.lan.Gateway().As4()
	first[3] = byte(10 * shared.pools)
	last := first
	last[3] += 9
	for _, pool := range pools {
		must(t, store.AddPool(t.Context(), state.Pool{
			UUID: pool.UUID, Name: name, Addresses: sim.Addresses(), Username: "root", Password: password, Fingerprints: sim.Fingerprints(),
			DelegateAddresses: fmt.Sprintf("%s-%s/%d", netip.AddrFrom4(first), netip.AddrFrom4(last), shared.lan.Subnet().Bits()),
		}))
	}
	s := &site{Pool: sim, delegate: &delegate.Pool{Name: name, API: client, Store: store}}
	deployed, err := delegate.Deploy(t.Context(), delegate.DeploySpec{Pool: s.delegate, SR: storage, Image: image(), Log: logger(t)})
	must(t, err)
	t.Logf("pool %s: %s deployed in %v", name, deployed.Name, deployed.Duration.Round(time.Millisecond))
	return s
}

func logger(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// console checks what a guest has printed.
func console(t *testing.T, file string, want ...string) {
	t.Helper()
	content, err := os.ReadFile(file)
	must(t, err)
	for _, w := range want {
		if !strings.Contains(string(content), w) {
			t.Errorf("%s lacks %q:\n%s", file, w, content)
		}
	}
}
