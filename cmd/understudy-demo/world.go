package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/qemu-tests/worlds"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/lan"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/qemu"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// world is what delegates run in.
type world interface {
	// prepare says what it does and makes what all delegates need, in a folder of its own.
	prepare(ctx context.Context, d *demo, root, work string) error
	// guests starts the delegates of a pool, with their folders in dir.
	guests(dir string) xapisim.World
	// deploy puts the delegate's image into a pool.
	deploy(ctx context.Context, s *site, sr string) error
	// addresses are what the delegates of a pool may have.
	addresses(pool string) string
	// dial is how the orchestrator reaches them, nil as any address, and patience how long one may take to boot.
	dial() func(ctx context.Context, network, address string) (net.Conn, error)
	patience() time.Duration
	// close ends what prepare has started.
	close() error
}

// defaultSizes are those of the first disk, by world: what each shows in a few minutes.
var defaultSizes = map[string]string{"process": "4GiB", "qemu": "512MiB"}

// newWorld gives the world of a name.
func newWorld(name string) (world, error) {
	switch name {
	case "process":
		return new(processWorld), nil
	case "qemu":
		return new(qemuWorld), nil
	}
	return nil, fmt.Errorf("--world %s: there are process and qemu", name)
}

// processWorld runs the delegate's program as a process.
type processWorld struct{ abd string }

func (w *processWorld) prepare(ctx context.Context, d *demo, root, work string) error {
	d.say("building the delegate")
	w.abd = filepath.Join(work, "abd")
	build := exec.CommandContext(ctx, "go", "build", "-o", w.abd, "./cmd/abd")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the delegate (cmd/abd): %w\n%s", err, out)
	}
	return nil
}

func (w *processWorld) guests(dir string) xapisim.World { return worlds.NewProcess(w.abd, dir) }

// deploy adds the template alone: there is nothing to boot.
func (w *processWorld) deploy(_ context.Context, s *site, sr string) error {
	_, err := s.AddDelegateTemplate(sr, "development")
	return err
}

// addresses draws a network of the loopback device, so that two demos on one machine hardly meet.
func (w *processWorld) addresses(string) string {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("127.%d.%d.0/24", 80+int(b[0])%170, b[1])
}

func (w *processWorld) dial() func(context.Context, string, string) (net.Conn, error) { return nil }
func (w *processWorld) patience() time.Duration                                       { return 0 }
func (w *processWorld) close() error                                                  { return nil }

// qemuWorld boots the delegate's image.
type qemuWorld struct {
	image  string
	lan    *lan.LAN
	socket string // the folder of the network's socket
}

func (w *qemuWorld) prepare(_ context.Context, d *demo, root, _ string) (err error) {
	w.image = filepath.Join(root, "build/image/abd.xva")
	if _, err := os.Stat(w.image); err != nil {
		return fmt.Errorf("the delegate's image is not built: run make image: %w", err)
	}
	d.say("delegates boot from %s", w.image)
	if w.socket, err = os.MkdirTemp("", "us-lan-"); err != nil { // the path of a socket must be short
		return err
	}
	w.lan, err = lan.New(netip.MustParsePrefix("10.77.0.0/24"), w.socket)
	return err
}

func (w *qemuWorld) guests(dir string) xapisim.World {
	return qemu.New(qemu.Options{Dir: dir, Network: w.lan.Socket()})
}

// deploy imports the image as an administrator does.
func (w *qemuWorld) deploy(ctx context.Context, s *site, sr string) error {
	_, err := delegate.Deploy(ctx, delegate.DeploySpec{Pool: s.delegate, SR: sr, Image: w.image})
	return err
}

// addresses are in the lower half of the network: the upper half is that of its DHCP server.
func (w *qemuWorld) addresses(pool string) string {
	if pool == "a" {
		return "10.77.0.10-10.77.0.19/24"
	}
	return "10.77.0.20-10.77.0.29/24"
}

func (w *qemuWorld) dial() func(context.Context, string, string) (net.Conn, error) {
	return w.lan.DialContext
}

// patience covers an emulated boot on a busy machine.
func (w *qemuWorld) patience() time.Duration { return 5 * time.Minute }

func (w *qemuWorld) close() (err error) {
	if w.lan != nil {
		err = w.lan.Close()
	}
	if w.socket != "" {
		err = errors.Join(err, os.RemoveAll(w.socket))
	}
	return err
}
