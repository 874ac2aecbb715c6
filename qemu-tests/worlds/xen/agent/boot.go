package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen/wire"
)

const (
	moduleList = "/etc/modules"         // paths of kernel modules in the order to load them, one a line
	consoleDir = "/var/log/xen/console" // of xenconsoled
	// programs is the folder of Xen's tools in Debian.
	programs = "/usr/lib/xen-4.17/bin/"
)

// bootTimeout bounds the wait for each part of dom0; emulation on a busy machine is slow.
const bootTimeout = 60 * time.Second

// boot makes dom0 able to start guests.
func boot() error {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"mounts", mounts}, {"modules", loadModules}, {"xenfs", mountXen}, {"network", makeBridge}, {"Xen's daemons", startDaemons},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

func mounts() error {
	for _, m := range []struct{ kind, target string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"devpts", "/dev/pts"}, {"tmpfs", "/dev/shm"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.target, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("%s: %w", m.target, err)
		}
	}
	for _, dir := range []string{"/run/lock", "/run/xen", "/run/xenstored", "/var/lib/xen", "/var/lib/xenstored", "/var/log/xen", consoleDir, "/etc/xen/scripts"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	links := map[string]string{"/var/run": "/run", "/var/lock": "/run/lock", "/dev/fd": "/proc/self/fd"}
	for script := range scripts {
		links[script] = "/init"
	}
	for name, target := range links {
		if err := os.Symlink(target, name); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return os.Setenv("PATH", programs+":/usr/sbin:/usr/bin:/sbin:/bin")
}

// loadModules loads what the image's builder listed. A module whose hardware or CPU feature is absent is said and left out.
func loadModules() error {
	list, err := os.Open(moduleList)
	if err != nil {
		return err
	}
	defer list.Close()
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		file, err := os.Open(lines.Text())
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(file.Fd()), "", 0)
		file.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			fmt.Printf("agent: module %s: %v\n", filepath.Base(lines.Text()), err)
		}
	}
	return lines.Err()
}

func mountXen() error { return unix.Mount("xenfs", "/proc/xen", "xenfs", 0, "") }

// makeBridge joins dom0's network interface to the bridge. Dom0 itself needs no address.
func makeBridge() error {
	if err := await("eth0", func() bool { _, err := netlink.LinkByName("eth0"); return err == nil }); err != nil {
		return err
	}
	uplink, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = bridge
	b := &netlink.Bridge{LinkAttrs: attributes}
	if err := netlink.LinkAdd(b); err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetMaster(uplink, b), netlink.LinkSetUp(uplink), netlink.LinkSetUp(b))
}

func startDaemons() error {
	if err := daemon("xenstored", "--no-fork"); err != nil {
		return err
	}
	err := await("xenstored", func() bool {
		s, err := openStore(func(string) {})
		if err != nil {
			return false
		}
		defer s.conn.Close()
		_, err = s.read("/tool")
		return err == nil || errors.Is(err, errAbsent)
	})
	if err != nil {
		return err
	}
	if out, err := exec.Command(programs + "xen-init-dom0").CombinedOutput(); err != nil {
		return fmt.Errorf("xen-init-dom0: %w: %s", err, out)
	}
	// Guests that compute must not keep dom0 from serving their disks and XenStore.
	if err := xl(context.Background(), "sched-credit2", "-d", "Domain-0", "-w", "2048"); err != nil {
		return err
	}
	return daemon("xenconsoled", "--interactive", "--log=guest", "--log-dir="+consoleDir)
}

// daemon starts a program that lives as long as the machine. Its end is said on the console; what needs it then fails.
func daemon(name string, arguments ...string) error {
	command := exec.Command(programs+name, arguments...)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	if err := command.Start(); err != nil {
		return err
	}
	go func() { fmt.Printf("agent: %s has ended: %v\n", name, command.Wait()) }()
	return nil
}

// openPort opens the virtio-serial port that leads to the world.
func openPort() (*os.File, error) {
	var device string
	err := await("the virtio-serial port "+wire.PortName, func() bool {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, name := range names {
			if text, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(text)) == wire.PortName {
				device = "/dev/" + filepath.Base(filepath.Dir(name))
			}
		}
		return device != ""
	})
	if err != nil {
		return nil, err
	}
	return os.OpenFile(device, os.O_RDWR, 0)
}

// await looks every 50 ms whether a thing is there.
func await(what string, there func() bool) error {
	for deadline := time.Now().Add(bootTimeout); !there(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not there after %v", what, bootTimeout)
		}
	}
	return nil
}
