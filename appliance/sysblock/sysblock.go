package sysblock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/appliance"
)

// Options of Watch.
type Options struct {
	// Sys and Dev are the mount points of sysfs and devtmpfs; default /sys and /dev.
	Sys, Dev string
	// Number tells which VBD a disk is, by its directory in sysfs; ok is false for a disk that is not the pool's to give and take. It
	// is asked once for a disk that it knows, and at every look for others. Watch calls it from one goroutine.
	Number func(dir string) (number int, ok bool)
	// Poll is how often Watch looks without an event; default 1 s.
	Poll time.Duration
	// Log takes what is wrong with single disks; default none.
	Log *slog.Logger
}

// settle is how soon Watch looks again at a disk whose device node is not there yet.
const settle = 20 * time.Millisecond

// Watch calls report for every disk that is there and then for every change, one call at a time, until ctx ends; it then returns nil.
// A disk of size 0 is going away and counts as unplugged. Of two disks with one number the first stays and the second is an error in
// the log. ReadOnly is as the disk was when it came: a reader may set it later (BLKROSET). An error means that sysfs cannot be read.
func Watch(ctx context.Context, o Options, report func(appliance.DeviceEvent)) error {
	o.Sys, o.Dev, o.Poll = cmp.Or(o.Sys, "/sys"), cmp.Or(o.Dev, "/dev"), cmp.Or(o.Poll, time.Second)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	events, err := listen()
	if err != nil {
		o.Log.Warn("no events of the kernel: disks are found by looking alone", "every", o.Poll, "cause", err)
	}
	defer events.close()
	w := watcher{Options: o, report: report, disks: make(map[int]disk)}
	for {
		unsettled, err := w.look()
		if err != nil {
			return err
		}
		wait := o.Poll
		if unsettled {
			wait = min(settle, o.Poll)
		}
		timer := time.NewTimer(wait)
		select {
		case <-events.blocks():
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		timer.Stop()
	}
}

// disk is one that was reported as plugged.
type disk struct {
	name     string // such as xvde
	sequence string // diskseq: no two disks of one boot have the same; empty where the kernel has none
}

type watcher struct {
	Options
	report func(appliance.DeviceEvent)
	disks  map[int]disk // by number
	twice  []disk       // those already complained of
}

// look compares sysfs with what was reported. unsettled tells that a disk was there without its device node.
func (w *watcher) look() (unsettled bool, err error) {
	entries, err := os.ReadDir(filepath.Join(w.Sys, "block"))
	if err != nil {
		return false, fmt.Errorf("sysblock: %w; sysfs must be mounted there", err)
	}
	present := make([]disk, 0, len(entries))
	for _, e := range entries {
		d := disk{name: e.Name()}
		if w.size(d.name) == 0 {
			continue
		}
		d.sequence, _ = w.attribute(d.name, "diskseq") // absent: see disk
		present = append(present, d)
	}
	for number, d := range w.disks {
		if !slices.Contains(present, d) {
			delete(w.disks, number)
			w.report(appliance.DeviceEvent{Number: number})
		}
	}
	w.twice = slices.DeleteFunc(w.twice, func(d disk) bool { return !slices.Contains(present, d) })
	for _, d := range present {
		if !w.settled(d) {
			unsettled = true
		}
	}
	return unsettled, nil
}

// settled reports a disk that is new and one of the pool's; false when it has to be looked at again soon.
func (w *watcher) settled(d disk) bool {
	for _, known := range w.disks {
		if known == d {
			return true
		}
	}
	number, ok := w.Number(filepath.Join(w.Sys, "block", d.name))
	if !ok {
		return true
	}
	if first, taken := w.disks[number]; taken {
		if !slices.Contains(w.twice, d) {
			w.twice = append(w.twice, d)
			w.Log.Error("two disks have one number, the second is left alone: unplug it", "device", number, "first", first.name, "second", d.name)
		}
		return true
	}
	path := filepath.Join(w.Dev, d.name)
	if _, err := os.Stat(path); err != nil {
		return false // devtmpfs makes the node after sysfs has the disk, and before the event
	}
	readOnly, err := w.attribute(d.name, "ro")
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) // if it is gone, there is nothing to wait for
	}
	w.disks[number] = d
	w.report(appliance.DeviceEvent{Number: number, Plugged: true, Path: path, ReadOnly: readOnly != "0"})
	return true
}

// size is in sectors; 0 also for a disk that has just gone.
func (w *watcher) size(name string) int64 {
	text, err := w.attribute(name, "size")
	if err == nil {
		var size int64
		if size, err = strconv.ParseInt(text, 10, 64); err == nil {
			return size
		}
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		w.Log.Warn("the size of a disk cannot be read: it counts as unplugged", "disk", name, "cause", err)
	}
	return 0
}

func (w *watcher) attribute(name, attribute string) (string, error) {
	value, err := os.ReadFile(filepath.Join(w.Sys, "block", name, attribute))
	return strings.TrimSpace(string(value)), err
}
