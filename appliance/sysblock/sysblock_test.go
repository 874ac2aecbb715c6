package sysblock_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/sysblock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const within = 5 * time.Second

// machine is a sysfs and a devtmpfs of files. A disk's number stands in its file 'serial'; there is none for a disk that is nobody's.
type machine struct {
	t      *testing.T
	root   string
	log    bytes.Buffer // of the watch; to be read when it has ended
	events chan appliance.DeviceEvent
	stop   func()
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, root: t.TempDir(), events: make(chan appliance.DeviceEvent, 64)}
	for _, dir := range []string{"sys/block", "dev"} {
		if err := os.MkdirAll(filepath.Join(m.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *machine) write(path, value string) {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	// In one step, as sysfs shows values.
	if err := os.WriteFile(path+".new", []byte(value), 0o644); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		m.t.Fatal(err)
	}
}

// add makes a disk; number < 0 is nobody's.
func (m *machine) add(name string, number int, sequence, ro string) {
	m.t.Helper()
	m.write("dev/"+name, "")
	m.addWithoutNode(name, number, sequence, ro)
}

func (m *machine) addWithoutNode(name string, number int, sequence, ro string) {
	m.t.Helper()
	if number >= 0 {
		m.write("sys/block/"+name+"/serial", strconv.Itoa(number))
	}
	m.write("sys/block/"+name+"/diskseq", sequence+"\n")
	m.write("sys/block/"+name+"/ro", ro+"\n")
	m.write("sys/block/"+name+"/size", "8\n")
}

func (m *machine) remove(name string) {
	m.t.Helper()
	// The size goes first, or the disk would be looked at half gone.
	for _, path := range []string{"sys/block/" + name + "/size", "sys/block/" + name, "dev/" + name} {
		if err := os.RemoveAll(filepath.Join(m.root, path)); err != nil {
			m.t.Fatal(err)
		}
	}
}

func (m *machine) watch() {
	m.t.Helper()
	ctx, cancel := context.WithCancel(m.t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- sysblock.Watch(ctx, sysblock.Options{
			Sys: filepath.Join(m.root, "sys"), Dev: filepath.Join(m.root, "dev"), Poll: 5 * time.Millisecond,
			Log: slog.New(slog.NewTextHandler(&m.log, nil)),
			Number: func(dir string) (int, bool) {
				text, err := os.ReadFile(filepath.Join(dir, "serial"))
				if err != nil {
					return 0, false
				}
				number, err := strconv.Atoi(string(text))
				return number, err == nil
			},
		}, func(e appliance.DeviceEvent) { m.events <- e })
	}()
	var stopped bool
	m.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				m.t.Errorf("Watch: %v", err)
			}
		case <-time.After(within):
			m.t.Fatal("Watch did not end with its context")
		}
	}
	m.t.Cleanup(m.stop)
}

func (m *machine) expect(want ...appliance.DeviceEvent) {
	m.t.Helper()
	for _, w := range want {
		if w.Plugged {
			w.Path = filepath.Join(m.root, "dev", w.Path)
		}
		select {
		case e := <-m.events:
			if e != w {
				m.t.Fatalf("event is %+v, want %+v", e, w)
			}
		case <-time.After(within):
			m.t.Fatalf("no event in time, want %+v", w)
		}
	}
}

// expectNothing waits for several looks.
func (m *machine) expectNothing() {
	m.t.Helper()
	select {
	case e := <-m.events:
		m.t.Fatalf("event is %+v, want none", e)
	case <-time.After(60 * time.Millisecond):
	}
}

func plugged(number int, path string) appliance.DeviceEvent {
	return appliance.DeviceEvent{Number: number, Plugged: true, Path: path}
}

func gone(number int) appliance.DeviceEvent { return appliance.DeviceEvent{Number: number} }

func TestComeAndGo(t *testing.T) {
	m := newMachine(t)
	m.add("loop0", -1, "1", "0")
	m.add("vda", 4, "2", "0")
	m.watch()
	m.expect(plugged(4, "vda"))
	m.add("vdb", 17, "3", "1")
	m.expect(appliance.DeviceEvent{Number: 17, Plugged: true, Path: "vdb", ReadOnly: true})
	m.remove("vda")
	m.expect(gone(4))
	m.expectNothing()
}

// Size 0 comes first, the disk's end later: one event.
func TestSizeZeroIsGoingAway(t *testing.T) {
	m := newMachine(t)
	m.add("xvde", 4, "2", "0")
	m.watch()
	m.expect(plugged(4, "xvde"))
	m.write("sys/block/xvde/size", "0\n")
	m.expect(gone(4))
	m.expectNothing()
	m.remove("xvde")
	m.expectNothing()
}

// A disk that takes the name and number of another between two looks is told by its sequence number.
func TestReplacedBetweenLooks(t *testing.T) {
	m := newMachine(t)
	m.add("xvde", 4, "2", "0")
	m.watch()
	m.expect(plugged(4, "xvde"))
	m.write("sys/block/xvde/diskseq", "9\n")
	m.expect(gone(4), plugged(4, "xvde"))
}

func TestNumberTwice(t *testing.T) {
	m := newMachine(t)
	m.add("vda", 4, "2", "0")
	m.watch()
	m.expect(plugged(4, "vda"))
	m.add("vdb", 4, "3", "0")
	m.expectNothing()
	m.remove("vda")
	m.expect(gone(4), plugged(4, "vdb")) // it is the only one now
	m.stop()
	if n := strings.Count(m.log.String(), "two disks have one number"); n != 1 {
		t.Errorf("the log tells %d times of the second disk, want once:\n%s", n, &m.log)
	}
}

// Setting a disk read-only, as a task does with a source, is no event.
func TestReadOnlyIsAsItCame(t *testing.T) {
	m := newMachine(t)
	m.add("vda", 4, "2", "0")
	m.watch()
	m.expect(plugged(4, "vda"))
	m.write("sys/block/vda/ro", "1\n")
	m.expectNothing()
}

func TestWaitsForTheNode(t *testing.T) {
	m := newMachine(t)
	m.watch()
	m.addWithoutNode("vda", 4, "2", "0")
	m.expectNothing()
	m.write("dev/vda", "")
	m.expect(plugged(4, "vda"))
}

// A disk whose number can only be told later, such as one whose serial cannot be read yet, is asked for again.
func TestNumberLater(t *testing.T) {
	m := newMachine(t)
	m.add("vda", -1, "2", "0")
	m.watch()
	m.expectNothing()
	m.write("sys/block/vda/serial", "4")
	m.expect(plugged(4, "vda"))
}

func TestUnreadableSize(t *testing.T) {
	m := newMachine(t)
	m.add("vda", 4, "2", "0")
	m.watch()
	m.expect(plugged(4, "vda"))
	m.write("sys/block/vda/size", "many\n")
	m.expect(gone(4))
	m.stop()
	if !strings.Contains(m.log.String(), "many") {
		t.Errorf("the log does not show the size that cannot be read:\n%s", &m.log)
	}
}

func TestNoSysfs(t *testing.T) {
	err := sysblock.Watch(t.Context(), sysblock.Options{Sys: filepath.Join(t.TempDir(), "sys")}, nil)
	if err == nil || !strings.Contains(err.Error(), "sysfs must be mounted") {
		t.Errorf("error is %v, want one that names sysfs", err)
	}
}
