package guestdir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
)

// poll is how often files are looked at: often enough that hot-plug takes no visible time.
const poll = 25 * time.Millisecond

// maxValue bounds a value in bytes, as XenStore does (xapi-facts §7.1: one payload is at most 4096).
const maxValue = 4096

// ErrInit is returned by Open in a process that is PID 1.
var ErrInit = errors.New("guest directories are for tests and are refused as PID 1: boot the image without --guest")

// Guest is an appliance.Guest.
type Guest struct {
	root      *os.Root
	temporary atomic.Int64 // numbers temporary files
}

// Open returns the guest of a directory, which must exist.
func Open(dir string) (*Guest, error) { return open(dir, os.Getpid()) }

func open(dir string, pid int) (*Guest, error) {
	if pid == 1 {
		return nil, fmt.Errorf("guestdir: open %s: %w", dir, ErrInit)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("guestdir: %w; give an existing directory", err)
	}
	return &Guest{root: root}, nil
}

// Close frees the directory.
func (g *Guest) Close() error { return g.root.Close() }

// Domain implements appliance.Guest.
func (g *Guest) Domain(context.Context) (appliance.Domain, error) {
	vm, err := g.read("vm")
	if err == nil {
		var id string
		if id, err = g.read("unique-domain-id"); err == nil {
			return appliance.Domain{VM: strings.TrimPrefix(vm, "/vm/"), UniqueID: id}, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", appliance.ErrNoDomain, err)
	}
	return appliance.Domain{}, err
}

// Input implements appliance.Guest.
func (g *Guest) Input(context.Context) (map[string]string, error) {
	names, err := g.list(control.InputPrefix)
	if err != nil {
		return nil, err
	}
	input := make(map[string]string, len(names))
	for _, name := range names {
		value, err := g.read(control.InputPrefix + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // went meanwhile
		}
		if err != nil {
			return nil, err
		}
		input[name] = value
	}
	return input, nil
}

// Publish implements appliance.Guest.
func (g *Guest) Publish(ctx context.Context, entries ...appliance.Entry) error {
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := g.write(e.Key, e.Value); err != nil {
			return fmt.Errorf("guestdir: publish %s: %w", e.Key, err)
		}
	}
	return nil
}

// PowerOff implements appliance.Guest: it publishes the cause; the process is the machine, and the caller ends it.
func (g *Guest) PowerOff(ctx context.Context, cause string) error {
	return g.Publish(ctx, appliance.Entry{Key: control.CauseKey, Value: appliance.CauseText(cause)})
}

// AwaitShutdown implements appliance.Guest.
func (g *Guest) AwaitShutdown(ctx context.Context) (appliance.Shutdown, error) {
	const key = "control/shutdown"
	for {
		word, err := g.read(key)
		switch {
		case err == nil && word != "":
			if err := g.root.Remove(key); err != nil {
				return "", fmt.Errorf("guestdir: acknowledge %s: %w", key, err)
			}
			return appliance.Shutdown(word), nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
		if err := sleep(ctx); err != nil {
			return "", err
		}
	}
}

func (g *Guest) read(key string) (string, error) {
	info, err := g.root.Stat(key)
	if err != nil {
		return "", fmt.Errorf("guestdir: %w", err)
	}
	if info.Size() > maxValue {
		return "", fmt.Errorf("guestdir: value of %s has %d bytes, more than %d", key, info.Size(), maxValue)
	}
	value, err := g.root.ReadFile(key)
	if err != nil {
		return "", fmt.Errorf("guestdir: %w", err)
	}
	return string(value), nil
}

// write replaces a value in one step.
func (g *Guest) write(key, value string) error {
	if len(value) > maxValue {
		return fmt.Errorf("value has %d bytes, more than %d", len(value), maxValue)
	}
	dir := path.Dir(key)
	if err := g.root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temporary := path.Join(dir, fmt.Sprintf(".%s.%d", path.Base(key), g.temporary.Add(1)))
	if err := g.root.WriteFile(temporary, []byte(value), 0o644); err != nil {
		return err
	}
	return g.root.Rename(temporary, key)
}

// list returns the names of a directory's values, sorted; none when there is no such directory.
func (g *Guest) list(dir string) ([]string, error) {
	entries, err := fs.ReadDir(g.root.FS(), strings.TrimSuffix(dir, "/"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("guestdir: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// sleep waits until it is time to look again.
func sleep(ctx context.Context) error {
	timer := time.NewTimer(poll)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
