package appliance_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/appliance/guestdir"
	"github.com/understudy-dr/understudy/appliance/guesttest"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within bounds every wait of these tests.
const within = 20 * time.Second

// delegate is one appliance in this process, its dom0 and a client of its orchestrator.
type delegate struct {
	*guesttest.Directory
	t            *testing.T
	address      string // ip:port
	nonce        string
	orchestrator *netproto.Identity
	identity     control.Identity // as published
	*control.Client
	ended chan error              // the result of Run
	tell  context.CancelCauseFunc // ends Run's context
}

func newIdentity(t *testing.T) *netproto.Identity {
	t.Helper()
	id, err := netproto.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// prepare makes a delegate with a good configuration that does not run yet. Its address is one of the loopback network's that
// nobody else is likely to use.
func prepare(t *testing.T) *delegate {
	t.Helper()
	ip := fmt.Sprintf("127.%d.%d.%d", 1+mathrand.IntN(250), mathrand.IntN(250), 1+mathrand.IntN(250))
	d := &delegate{
		Directory: guesttest.NewDirectory(t), t: t, address: fmt.Sprintf("%s:%d", ip, control.Port), nonce: randomHex(16),
		orchestrator: newIdentity(t), ended: make(chan error, 1),
	}
	d.WriteDomain(appliance.Domain{VM: "4f1b7a1e-0000-4000-8000-000000000001", UniqueID: "first-boot"})
	d.WriteInput(map[string]string{
		control.InputNonce:        d.nonce,
		control.InputOrchestrator: string(d.orchestrator.Fingerprint()),
		control.InputAddress:      ip + "/8",
	})
	return d
}

// start runs the delegate until the test ends.
func (d *delegate) start(change func(*appliance.Options)) {
	d.t.Helper()
	guest, err := guestdir.Open(d.Path)
	if err != nil {
		d.t.Fatal(err)
	}
	o := appliance.Options{Guest: guest, Version: "1.2.3", Buffered: true, PeerWait: 10 * time.Second}
	if testing.Verbose() {
		o.Console = slog.NewTextHandler(d.t.Output(), nil)
	}
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	d.tell = cancel
	go func() { d.ended <- appliance.Run(ctx, o) }()
	d.t.Cleanup(func() {
		if d.Client != nil {
			d.Client.Close()
		}
		cancel(nil)
		_ = d.awaitEnd()
		if err := guest.Close(); err != nil {
			d.t.Error(err)
		}
	})
}

// awaitEnd returns what Run returned.
func (d *delegate) awaitEnd() error {
	d.t.Helper()
	select {
	case err := <-d.ended:
		d.ended <- err // for the next who asks
		return err
	case <-time.After(within):
		d.t.Fatal("the delegate did not end")
		return nil
	}
}

// connect waits for the delegate's identity and makes the client.
func (d *delegate) connect() {
	d.t.Helper()
	d.eventually("identity published", func() bool {
		value, ok := d.ReadPublication(control.IdentityKey)
		if !ok {
			return false
		}
		var err error
		if d.identity, err = control.ParseIdentity(value); err != nil {
			d.t.Fatal(err)
		}
		return true
	})
	d.Client = control.NewClient(control.ClientOptions{Address: d.address, Identity: d.orchestrator, Peer: d.identity.Fingerprint})
}

// launch prepares, starts and connects a delegate.
func launch(t *testing.T) *delegate {
	t.Helper()
	return launchWith(t, nil)
}

func launchWith(t *testing.T, change func(*appliance.Options)) *delegate {
	t.Helper()
	d := prepare(t)
	d.start(change)
	d.connect()
	return d
}

// impatient is for delegates that will wait in vain.
func impatient(o *appliance.Options) { o.PeerWait = 500 * time.Millisecond }

func (d *delegate) eventually(what string, condition func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(within); !condition(); time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-d.ended:
			d.t.Fatalf("%s: the delegate ended: %v", what, err)
		default:
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("%s: not in time", what)
		}
	}
}

// plug attaches an image and waits until the delegate knows it.
func (d *delegate) plug(number int, image string) {
	d.t.Helper()
	d.PlugImage(number, image, false)
	d.eventually(fmt.Sprintf("disk %d plugged", number), func() bool {
		devices, err := d.Devices(d.t.Context())
		if err != nil {
			d.t.Fatal(err)
		}
		for _, device := range devices {
			if device.Number == number && device.Path == image {
				return true
			}
		}
		return false
	})
}

// run posts a task and waits for its end.
func (d *delegate) run(spec control.TaskSpec) control.TaskStatus {
	d.t.Helper()
	d.post(spec)
	return d.wait(spec.ID)
}

func (d *delegate) post(spec control.TaskSpec) {
	d.t.Helper()
	if _, err := d.StartTask(d.t.Context(), spec); err != nil {
		d.t.Fatal(err)
	}
}

func (d *delegate) wait(id string) control.TaskStatus {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), within)
	defer cancel()
	status, err := d.WaitTask(ctx, id)
	if err != nil {
		d.t.Fatal(err)
	}
	return status
}

func (d *delegate) expectDone(status control.TaskStatus) {
	d.t.Helper()
	if status.State != control.StateDone {
		d.t.Fatalf("task %s is %s: %s", status.ID, status.State, status.Error)
	}
}

// expectCode checks an error of the API.
func expectCode(t *testing.T, err error, code control.Code) {
	t.Helper()
	var answer *control.Error
	if !errors.As(err, &answer) || answer.Code != code {
		t.Errorf("error is %v, want code %s", err, code)
	}
}

func newKey(t *testing.T) manifest.Key {
	t.Helper()
	key, err := manifest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// setKey gives the delegates a key.
func setKey(t *testing.T, key manifest.Key, delegates ...*delegate) {
	t.Helper()
	for _, d := range delegates {
		if err := d.SetKey(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
}

// image writes an image file.
func image(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// noise returns size bytes that differ by seed; size need not be a multiple of anything.
func noise(seed uint64, size int) []byte {
	content := make([]byte, size)
	_, _ = mathrand.NewChaCha8([32]byte{byte(seed)}).Read(content) // never fails
	return content
}

func expectContent(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) < len(want) || !bytes.Equal(got[:len(want)], want) {
		t.Errorf("%s does not hold what was sent", path)
	}
}

// extents returns extent digests and records of some content.
func extents(key manifest.Key, content []byte) (digests []manifest.Digest, records []manifest.Record) {
	g := manifest.Geometry{Size: int64(len(content))}
	h := key.NewHasher()
	for e := range g.Extents() {
		record := manifest.Record{Extent: e}
		for b := range g.BlocksIn(e) {
			off, length := g.BlockRange(e*manifest.BlocksPerExtent + uint32(b))
			record.Blocks = append(record.Blocks, h.Block(content[off:off+int64(length)]))
		}
		records = append(records, record)
		digests = append(digests, h.Extent(record.Blocks))
	}
	return digests, records
}

func root(t *testing.T, key manifest.Key, content []byte) manifest.Digest {
	t.Helper()
	digests, _ := extents(key, content)
	r := key.NewRoot(manifest.Geometry{Size: int64(len(content))})
	for _, d := range digests {
		r.Add(d)
	}
	sum, err := r.Sum()
	if err != nil {
		t.Fatal(err)
	}
	return sum
}
