package guestdir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/appliance"
)

const deviceDir = "device/vbd"

// WatchDevices implements appliance.Guest. A disk whose file changed is reported as gone and come.
func (g *Guest) WatchDevices(ctx context.Context, report func(appliance.DeviceEvent)) error {
	known := map[int]appliance.DeviceEvent{}
	for {
		now, err := g.devices()
		if err != nil {
			return err
		}
		for _, number := range slices.Sorted(maps.Keys(known)) {
			if now[number] != known[number] {
				delete(known, number)
				report(appliance.DeviceEvent{Number: number})
			}
		}
		for _, number := range slices.Sorted(maps.Keys(now)) {
			if _, ok := known[number]; !ok {
				known[number] = now[number]
				report(now[number])
			}
		}
		if sleep(ctx) != nil {
			return nil
		}
	}
}

func (g *Guest) devices() (map[int]appliance.DeviceEvent, error) {
	names, err := g.list(deviceDir)
	if err != nil {
		return nil, err
	}
	devices := make(map[int]appliance.DeviceEvent, len(names))
	for _, name := range names {
		value, err := g.read(deviceDir + "/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // unplugged meanwhile
		}
		if err != nil {
			return nil, err
		}
		device, err := parseDevice(name, value)
		if err != nil {
			return nil, err
		}
		devices[device.Number] = device
	}
	return devices, nil
}

// parseDevice reads a value of two lines: absolute path, and mode r or w.
func parseDevice(name, value string) (appliance.DeviceEvent, error) {
	number, err := strconv.Atoi(name)
	if err != nil || number < 0 || strconv.Itoa(number) != name {
		return appliance.DeviceEvent{}, fmt.Errorf("guestdir: %s/%s: a disk's name is its decimal VBD number", deviceDir, name)
	}
	path, mode, _ := strings.Cut(value, "\n")
	if !filepath.IsAbs(path) || mode != "r" && mode != "w" {
		return appliance.DeviceEvent{}, fmt.Errorf("guestdir: %s/%s is %.200q: it is an absolute path, a newline, and r or w", deviceDir, name, value)
	}
	return appliance.DeviceEvent{Number: number, Plugged: true, Path: path, ReadOnly: mode == "r"}, nil
}
