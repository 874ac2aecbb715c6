package peers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Job is what a tool is to do: bring Target to the content of Source, both files in Dir, over Line.
type Job struct {
	Dir            string
	Source, Target string
	Trust          bool // understudy has a manifest of the target
	FullCopy       bool // the target holds nothing of the source
	Line           Line
}

// usage is what a run took.
type usage struct {
	wall, cpu float64 // seconds
	rss       int64
	read      int64
	wire      int64
	shared    bool // wire holds what others sent over the loopback device
}

// commands are the processes of a run. Both get the port that is theirs to listen on or to dial.
type commands struct {
	server func(port int) []string // nil: without
	client func(port int) []string
}

// run starts the server, then runs and measures the client until the target is synced. It returns the commands too, as a person would
// type them.
func (j Job) run(ctx context.Context, c commands) (u usage, command string, err error) {
	run := func() error {
		u, command, err = j.measure(ctx, c)
		return err
	}
	if c.server == nil || j.Line.Flag != "" { // no line, or one that counts
		err = run()
		return u, command, err
	}
	own, err := alone(run)
	u.shared = !own
	return u, command, err
}

func (j Job) measure(ctx context.Context, c commands) (u usage, command string, err error) {
	before, err := readCounters()
	if err != nil {
		return u, "", err
	}
	stop := watch()
	var passed func() int64
	command, err = func() (_ string, err error) {
		defer func() { u.rss = stop() }()
		port := 0
		command := ""
		if c.server != nil {
			own, err := freePort()
			if err != nil {
				return "", err
			}
			args := c.server(own)
			s, err := j.serve(ctx, args, own)
			if err != nil {
				return "", err
			}
			defer func() { err = errors.Join(err, s.stop()) }()
			command = typed(args) + " & "
			var closeLine func()
			if port, passed, closeLine, err = j.Line.open(own); err != nil {
				return "", err
			}
			defer closeLine()
		}
		args := c.client(port)
		u.wall, err = j.time(ctx, args)
		return command + typed(args), err
	}()
	if err != nil {
		return u, "", err
	}
	after, err := readCounters()
	u.cpu, u.read = (after.cpu - before.cpu).Seconds(), after.read-before.read
	if passed != nil {
		u.wire = passed()
	} else if c.server != nil {
		u.wire = after.loopback - before.loopback
	}
	return u, command, err
}

// time runs a client and syncs the target.
func (j Job) time(ctx context.Context, args []string) (seconds float64, err error) {
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Dir = j.Dir
	var said strings.Builder
	c.Stdout, c.Stderr = &said, &said
	start := time.Now()
	if err := c.Run(); err != nil {
		return 0, fmt.Errorf("%s: %w: %s", typed(args), err, strings.TrimSpace(said.String()))
	}
	f, err := os.OpenFile(filepath.Join(j.Dir, j.Target), os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	err = errors.Join(f.Sync(), f.Close())
	return time.Since(start).Seconds(), err
}

// server is a process that listens.
type server struct{ command *exec.Cmd }

// patience is how long a server may take to listen, and to let go of a client that has ended.
const patience = 10 * time.Second

func (j Job) serve(ctx context.Context, args []string, port int) (*server, error) {
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Dir = j.Dir
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w; run hack/deps bench", args[0], err)
	}
	s := &server{command: c}
	for end := time.Now().Add(patience); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if up, err := listens(port); err != nil {
			return nil, errors.Join(err, s.stop())
		} else if up {
			return s, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("%s does not listen on port %d", typed(args), port), context.Cause(ctx), s.stop())
}

// stop waits until the server's own children have ended, for their counters to reach it, and then ends it.
func (s *server) stop() error {
	for end := time.Now().Add(patience); time.Now().Before(end) && len(descendants(s.command.Process.Pid)) > 0; {
		time.Sleep(20 * time.Millisecond)
	}
	if err := s.command.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	var status *exec.ExitError
	if err := s.command.Wait(); err != nil && !errors.As(err, &status) {
		return err
	}
	return nil // how it ends when told to is its own affair
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// typed is a command line as a person would write it.
func typed(args []string) string {
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = a
		if a == "" || strings.ContainsAny(a, " ?&|;*$'\"") {
			words[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	words[0] = filepath.Base(words[0])
	return strings.Join(words, " ")
}
