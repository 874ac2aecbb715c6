package main_test

import (
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/appliance/guesttest"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/netproto/line"
	"github.com/understudy-dr/understudy/transfer"
)

// maxRSS is what a delegate may take, in bytes (design §4).
const maxRSS = 96 << 20

var diskMiB = flag.Int64("disk", 32, "MiB of each disk in TestMemoryOfFourDisks")

// Two delegates move four disks at once, over TLS, and neither takes more memory than it may, whatever the disks hold and however that is
// compressed.
func TestMemoryOfFourDisks(t *testing.T) {
	for _, c := range []struct {
		name        string
		fill        func(p []byte, seed uint64)
		compression transfer.Compression
		trusted     bool
		line        string
	}{
		{"noise", noise, transfer.CompressionAuto, false, ""},
		{"pages, compressed", pages, transfer.CompressionOn, true, ""},
		{"pages, thin line", pages, transfer.CompressionAuto, false, "400mbit,20ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startPair(t)
			tasks := p.post(t, c.fill, c.compression, c.trusted, c.line)
			for _, end := range []struct {
				name string
				*process
			}{{"sender", p.source}, {"receiver", p.target}} {
				for _, id := range tasks {
					status, err := end.client.WaitTask(t.Context(), id)
					if err != nil || status.State != control.StateDone {
						t.Fatalf("%s: task %s is %s (%s), %v", end.name, id, status.State, status.Error, err)
					}
					if end.process == p.source && status.Sinks[0].Counters.Sent != *diskMiB<<20 {
						t.Errorf("task %s sent %d bytes", id, status.Sinks[0].Counters.Sent)
					}
				}
				about, err := end.client.Status(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%-8s %.1f MiB", end.name, float64(about.PeakRSSBytes)/(1<<20))
				if about.PeakRSSBytes == 0 || about.PeakRSSBytes > maxRSS {
					t.Errorf("the %s took %.1f MiB of memory, %d are allowed", end.name, float64(about.PeakRSSBytes)/(1<<20), maxRSS>>20)
				}
			}
		})
	}
}

func noise(p []byte, seed uint64) {
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(p) // never fails
}

// pages are as a database's: a third of each of them does not shrink.
func pages(p []byte, seed uint64) {
	const page = 4096
	noise(p, seed)
	for at := 0; at < len(p); at += page {
		rest := p[at+page/3 : min(at+page, len(p))]
		for i := range rest {
			rest[i] = "a row of a table, and the next; "[i%32]
		}
	}
}

// process is a delegate that runs.
type process struct {
	directory *guesttest.Directory
	client    *control.Client
	address   string
	peer      netproto.Fingerprint
}

func startProcess(t *testing.T, key manifest.Key) *process {
	t.Helper()
	identity, err := netproto.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	d := guesttest.NewDirectory(t)
	ip := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 1+rand.IntN(250))
	d.WriteDomain(appliance.Domain{VM: "vm", UniqueID: "boot"})
	d.WriteInput(map[string]string{
		control.InputNonce: "00112233445566778899", control.InputOrchestrator: string(identity.Fingerprint()), control.InputAddress: ip + "/8",
	})
	command := exec.Command(program, "--guest", d.Path, "--buffered")
	command.Env = append(os.Environ(), "GOMAXPROCS=4") // whatever works on each core takes memory
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = command.Process.Kill() // its disks go with the test
		if err := <-ended; err == nil {
			t.Error("the process ended by itself")
		}
	})
	p := &process{directory: d, address: fmt.Sprintf("%s:%d", ip, control.Port), peer: awaitIdentity(t, d, ended).Fingerprint}
	p.client = control.NewClient(control.ClientOptions{Address: p.address, Identity: identity, Peer: p.peer})
	t.Cleanup(p.client.Close)
	if err := p.client.SetKey(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	return p
}

// plug gives the delegate a disk and waits until it is seen.
func (p *process) plug(t *testing.T, number int, content []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	p.directory.PlugImage(number, path, false)
	for deadline := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		devices, err := p.client.Devices(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range devices {
			if d.Number == number {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("disk %d is not seen", number)
		}
	}
}

type processes struct {
	source, target *process
	key            manifest.Key
}

func startPair(t *testing.T) processes {
	t.Helper()
	key, err := manifest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return processes{startProcess(t, key), startProcess(t, key), key}
}

// post starts as many full copies as run at once, over a line when there is one, and returns their names.
func (p processes) post(t *testing.T, fill func([]byte, uint64), compression transfer.Compression, trusted bool, thin string) (ids []string) {
	t.Helper()
	address := p.target.address
	if thin != "" {
		spec, err := line.ParseSpec(thin)
		if err != nil {
			t.Fatal(err)
		}
		proxy, err := line.Start(spec, address, line.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(proxy.Close)
		address = proxy.Addr()
	}
	content := make([]byte, *diskMiB<<20)
	for number := range control.MaxTransfers {
		fill(content, uint64(2*number+1))
		p.source.plug(t, number, content)
		if trusted {
			clear(content)
		} else {
			noise(content, uint64(2*number+2))
		}
		p.target.plug(t, number, content)
	}
	for number := range control.MaxTransfers {
		token := make(control.Token, 16)
		copy(token, hex.EncodeToString([]byte{byte(number + 1)}))
		spec := control.TaskSpec{
			ID: fmt.Sprintf("disk-%d", number), Device: number, Size: *diskMiB << 20, KeyID: p.key.ID(),
			Tuning: control.Tuning{Compression: compression, Parts: transfer.PartsOff},
		}
		receive, send := spec, spec
		receive.Kind, receive.Peer, receive.Generation = control.KindReceive, &control.Peer{Fingerprint: p.source.peer, Token: token}, manifest.NewGeneration()
		send.Kind, send.Sinks = control.KindSend, []control.Sink{{Peer: control.Peer{Fingerprint: p.target.peer, Token: token, Address: address}}}
		if trusted {
			receive.Trusted, send.Sinks[0].Trusted = control.TrustPeer, control.TrustZero
		}
		for _, end := range []struct {
			*process
			spec control.TaskSpec
		}{{p.target, receive}, {p.source, send}} {
			if _, err := end.client.StartTask(t.Context(), end.spec); err != nil {
				t.Fatal(err)
			}
		}
		ids = append(ids, spec.ID)
	}
	return ids
}
