package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ErrNoApt means that this machine is no Debian or has lost its apt.
var ErrNoApt = errors.New("debian: apt-get and apt-cache are needed: build on Debian 12 or a container of it")

// Architecture is the one of the packages asked for, whatever the building machine is.
const Architecture = "amd64"

// settings make apt private. They are a file that apt reads last, since only there a list can be emptied: hooks of the
// machine (PackageKit, container images) have no business here.
const settings = `// Written anew at each use.
Dir::State "%[1]s";
Dir::State::lists "%[1]s/lists";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s";
Dir::Cache::archives "%[1]s/apt-archives";
Dir::Log "%[1]s";
#clear APT::Architectures;
APT::Architecture "` + Architecture + `";
APT::Architectures { "` + Architecture + `"; };
APT::Sandbox::User "%[2]s";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Acquire::Languages "none";
Acquire::Retries "3";
`

// locked runs f while no other process uses the directory.
func (a Archive) locked(ctx context.Context, f func() error) error {
	for _, dir := range []string{a.Dir, filepath.Join(a.Dir, "lists/partial"), filepath.Join(a.Dir, "apt-archives/partial"), a.archives()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("debian: the cache: %w", err)
		}
	}
	lock, err := os.OpenFile(filepath.Join(a.Dir, "lock.understudy"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("debian: the cache: %w", err)
	}
	defer lock.Close() // and so unlocked
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f()
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("debian: lock %s: %w", lock.Name(), err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("debian: another process uses %s: %w", a.Dir, context.Cause(ctx))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// apt runs one of apt's programs and returns what it printed. The directory must be locked.
func (a Archive) apt(ctx context.Context, dir, program string, arguments ...string) ([]byte, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrNoApt, err)
	}
	root, err := filepath.Abs(a.Dir)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(root, "\"\\\n;") {
		return nil, fmt.Errorf("debian: %q has characters that apt's configuration cannot hold", root)
	}
	user := "_apt"
	if os.Geteuid() == 0 {
		user = "root" // _apt may not be allowed into the directory
	}
	config := filepath.Join(root, "apt.conf")
	err = errors.Join(
		os.WriteFile(config, fmt.Appendf(nil, settings, root, user), 0o644),
		os.WriteFile(filepath.Join(root, "status"), nil, 0o644))
	if err != nil {
		return nil, fmt.Errorf("debian: the cache: %w", err)
	}
	command := exec.CommandContext(ctx, path, append([]string{"-c", config, "-qq"}, arguments...)...)
	command.Dir = dir
	command.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	command.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, &aptError{command: program + " " + strings.Join(arguments, " "), said: strings.TrimSpace(stderr.String()), err: err}
	}
	return stdout.Bytes(), nil
}

// aptError is a program of apt that failed.
type aptError struct {
	command, said string
	err           error
}

func (e *aptError) Error() string {
	said := e.said
	if len(said) > 2000 {
		said = said[:2000] + " …"
	}
	return fmt.Sprintf("debian: %.200s: %v: %s", e.command, e.err, said)
}

func (e *aptError) Unwrap() error { return e.err }
