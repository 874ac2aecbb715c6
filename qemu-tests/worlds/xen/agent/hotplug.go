package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bridge is what the guests' network interfaces and dom0's own are joined to.
const bridge = "xenbr0"

// scripts are the names under which xl runs this program for a device that comes or goes (libxl's hotplug scripts). Debian's own
// are shell scripts that take seconds under emulation.
var scripts = map[string]func(directory, action string) error{
	"/etc/xen/scripts/block":      plugBlock,
	"/etc/xen/scripts/vif-bridge": plugInterface,
}

// runScript does a hotplug script's work. XENBUS_PATH is the directory of the device's back end in XenStore.
func runScript(script func(directory, action string) error, arguments []string) error {
	directory := os.Getenv("XENBUS_PATH")
	if directory == "" || len(arguments) == 0 {
		return errors.New("this is a hotplug script: it wants XENBUS_PATH and an action")
	}
	for _, argument := range arguments {
		if !strings.Contains(argument, "=") {
			return script(directory, argument)
		}
	}
	return errors.New("no action")
}

// plugBlock tells blkback which device to serve, by its numbers.
func plugBlock(directory, action string) error {
	if action != "add" {
		return nil
	}
	s, err := openStore(func(string) {})
	if err != nil {
		return err
	}
	defer s.conn.Close()
	node, err := s.read(directory + "/params")
	if err != nil {
		return err
	}
	var stat unix.Stat_t
	if err := unix.Stat(node, &stat); err != nil {
		return fmt.Errorf("%s: %w", node, err)
	}
	numbers := fmt.Sprintf("%x:%x", unix.Major(stat.Rdev), unix.Minor(stat.Rdev))
	return errors.Join(
		s.write(directory+"/node", node),
		s.write(directory+"/physical-device", numbers),
		s.write(directory+"/hotplug-status", "connected"))
}

// plugInterface puts netback's interface on the bridge.
func plugInterface(directory, action string) error {
	if action != "online" && action != "add" {
		return nil
	}
	name := os.Getenv("vif")
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %q: %w", name, err)
	}
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetMaster(link, master), netlink.LinkSetUp(link)); err != nil {
		return err
	}
	s, err := openStore(func(string) {})
	if err != nil {
		return err
	}
	defer s.conn.Close()
	return s.write(directory+"/hotplug-status", "connected")
}
