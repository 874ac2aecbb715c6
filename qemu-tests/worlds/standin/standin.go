package standin

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// RunIfGuest becomes a guest and never returns when the program was started as one. Call it first in TestMain.
func RunIfGuest() {
	if len(os.Args) != 3 || os.Args[1] != "--guest" {
		return
	}
	if err := run(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "stand-in guest:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(dir string) error {
	read := func(key string) string {
		value, _ := os.ReadFile(filepath.Join(dir, key)) // an absent key reads as an empty one
		return string(value)
	}
	behaviour := read("vm-data/test/behaviour")
	fmt.Println("stand-in guest up, behaviour", behaviour)
	if behaviour == "exit" {
		return write(dir, "vm-data/understudy/out/cause", "told to exit")
	}
	for _, pair := range [][2]string{
		{"attr/PVAddons/MajorVersion", "9"}, {"attr/PVAddons/MinorVersion", "0"}, {"attr/PVAddons/MicroVersion", "0"},
		{"feature/hotplug/vbd", "1"}, {"attr/vif/0/ipv4/0", strings.Split(read("vm-data/understudy/in/address"), "/")[0]},
		{"data/os_name", "stand-in"}, {"control/feature-shutdown", "1"},
		{"vm-data/understudy/out/identity", "0:" + read("vm-data/understudy/in/nonce") + ":fingerprint:" + read("unique-domain-id")},
	} {
		if err := write(dir, pair[0], pair[1]); err != nil {
			return err
		}
	}
	disks := map[string]*os.File{}
	for round := 0; ; round++ {
		if err := attach(dir, disks, behaviour == "hold"); err != nil {
			return err
		}
		if read("control/shutdown") == "poweroff" && behaviour != "deaf" {
			if err := os.Remove(filepath.Join(dir, "control/shutdown")); err != nil {
				return err
			}
			return write(dir, "vm-data/understudy/out/cause", "shutdown requested")
		}
		if behaviour != "count" {
			time.Sleep(10 * time.Millisecond)
		} else if err := count(disks, round); err != nil {
			return err
		}
	}
}

func count(disks map[string]*os.File, round int) error {
	number := fmt.Appendf(nil, "%08d", round)
	for _, disk := range disks {
		info, err := disk.Stat()
		if err != nil {
			return err
		}
		for _, offset := range []int64{0, info.Size() - int64(len(number))} {
			if _, err := disk.WriteAt(number, offset); err != nil {
				return err
			}
		}
	}
	return nil
}

// attach opens the disks that have come, writes a mark into those that are writable, and closes those that have gone.
func attach(dir string, disks map[string]*os.File, hold bool) error {
	entries, err := os.ReadDir(filepath.Join(dir, "device/vbd"))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	present := map[string]bool{}
	for _, entry := range entries {
		name := entry.Name()
		value, err := os.ReadFile(filepath.Join(dir, "device/vbd", name))
		if strings.HasPrefix(name, ".") || err != nil {
			continue
		}
		present[name] = true
		if disks[name] != nil {
			continue
		}
		path, mode, _ := strings.Cut(string(value), "\n")
		flags := os.O_RDWR
		if mode == "r" {
			flags = os.O_RDONLY
		}
		if disks[name], err = os.OpenFile(path, flags, 0); err != nil {
			return err
		}
		if mode == "w" {
			if _, err := disks[name].WriteAt([]byte("device "+name), 0); err != nil {
				return err
			}
		}
	}
	for name, disk := range disks {
		if present[name] || hold {
			continue
		}
		if err := disk.Close(); err != nil {
			return err
		}
		delete(disks, name)
	}
	return nil
}

func write(dir, key, value string) error {
	path := filepath.Join(dir, key)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(temporary, []byte(value), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
