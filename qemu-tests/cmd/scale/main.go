package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/qemu-tests/synthetic"
)

// maxRSS is what a delegate may take, in bytes (design: Memory).
const maxRSS = 96 << 20

// order is what a process is told.
type order struct {
	Role    string
	Size    int64
	Data    uint64 // see synthetic.Content
	Changed uint64
	Hinted  bool // with allocation maps, and of a trusted target with the map of changes
	Trusted bool
	Folder  string

	Seed    []byte // of the process's identity
	Peer    netproto.Fingerprint
	Address string // of the receiver
}

func (o order) content(changed uint64) synthetic.Content {
	return synthetic.Content{Size: o.Size, Seed: 1, Data: o.Data, Changed: changed}
}

// outcome is what a process tells at its end.
type outcome struct {
	Wall     float64 // seconds
	PeakRSS  int64   // VmHWM in bytes
	Read     int64
	Assumed  int64
	Sent     int64
	Wire     int64
	Journal  int64 // bytes of records
	Root     string
	Expected string
}

func main() {
	o := order{}
	flag.Int64Var(&o.Size, "size", 2<<40, "size of the disk in bytes")
	flag.Uint64Var(&o.Data, "data", 256, "one region of 32 MiB in so many holds data")
	flag.Uint64Var(&o.Changed, "changed", 100, "one block with data in so many differs")
	flag.StringVar(&o.Folder, "folder", "", "where what is written is kept; default: that for temporary files")
	all := flag.Bool("all", false, "also read every byte of both disks, holes included")
	role := flag.String("role", "", "for the program's own use")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *role == "" {
		err = run(ctx, o, *all)
	} else {
		err = end(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, o order, all bool) error {
	type scenario struct {
		name            string
		hinted, trusted bool
	}
	scenarios := []scenario{{"untrusted, allocation maps", true, false}, {"trusted, map of changes", true, true}}
	if all {
		scenarios = append(scenarios, scenario{"untrusted, every byte", false, false}, scenario{"trusted, every byte", false, true})
	}
	var failed error
	for _, s := range scenarios {
		o.Hinted, o.Trusted = s.hinted, s.trusted
		sender, receiver, err := pair(ctx, o)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		for _, e := range []struct {
			role string
			outcome
		}{{"sender", sender}, {"receiver", receiver}} {
			fmt.Printf("%-28s %-9s %8.1f s  peak %5.1f MiB  read %9.1f MiB  assumed %10.1f MiB  sent %7.1f MiB  wire %7.1f MiB  journal %6.1f MiB\n", s.name, e.role,
				e.Wall, mib(e.PeakRSS), mib(e.Read), mib(e.Assumed), mib(e.Sent), mib(e.Wire), mib(e.Journal))
			if e.PeakRSS > maxRSS {
				failed = errors.Join(failed, fmt.Errorf("%s: the %s took %.1f MiB of memory, %d are allowed", s.name, e.role, mib(e.PeakRSS), maxRSS>>20))
			}
			if e.Root != "" && e.Root != e.Expected {
				failed = errors.Join(failed, fmt.Errorf("%s: the %s's root is %s, want %s", s.name, e.role, e.Root, e.Expected))
			}
		}
	}
	return failed
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// pair runs a sender and a receiver.
func pair(ctx context.Context, o order) (sender, receiver outcome, err error) {
	near, err := netproto.NewIdentity()
	if err != nil {
		return sender, receiver, err
	}
	far, err := netproto.NewIdentity()
	if err != nil {
		return sender, receiver, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := o
	r.Role, r.Seed, r.Peer = "receiver", far.Seed(), near.Fingerprint()
	listening, err := start(ctx, r)
	if err != nil {
		return sender, receiver, err
	}
	defer func() { cancel(); listening.abandon() }()
	s := o
	s.Role, s.Seed, s.Peer = "sender", near.Seed(), far.Fingerprint()
	if err := listening.out.Decode(&s.Address); err != nil {
		return sender, receiver, fmt.Errorf("the receiver ended: %w", err)
	}
	sending, err := start(ctx, s)
	if err != nil {
		return sender, receiver, err
	}
	defer func() { cancel(); sending.abandon() }()
	err = errors.Join(sending.end(&sender), listening.end(&receiver))
	return sender, receiver, err
}

// process is one end.
type process struct {
	role    string
	command *exec.Cmd
	out     *json.Decoder
	ended   bool
}

func start(ctx context.Context, o order) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{role: o.Role, command: exec.CommandContext(ctx, self, "--role", o.Role)}
	p.command.Stderr = os.Stderr
	p.command.WaitDelay = 5 * time.Second
	in, err := p.command.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = json.NewDecoder(out)
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	if err := errors.Join(json.NewEncoder(in).Encode(o), in.Close()); err != nil {
		return nil, errors.Join(err, p.command.Wait())
	}
	return p, nil
}

func (p *process) end(o *outcome) error {
	told := p.out.Decode(o)
	p.ended = true
	if err := p.command.Wait(); err != nil {
		return fmt.Errorf("%s: %w", p.role, err)
	}
	return told
}

// abandon waits for a process that is being killed.
func (p *process) abandon() {
	if !p.ended {
		_ = p.command.Wait() // why it is given up is told already
	}
}
