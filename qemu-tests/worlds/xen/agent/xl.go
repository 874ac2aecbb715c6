package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen/wire"
)

// destroyTimeout bounds how long a domain may take to go once xl has been told.
const destroyTimeout = 60 * time.Second

// xl runs one command of Xen's toolstack. Its complaints are in the error.
func xl(ctx context.Context, arguments ...string) error {
	out, err := exec.CommandContext(ctx, programs+"xl", arguments...).CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("xl %s: %w", arguments[0], context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("xl %s: %w: %s", strings.Join(arguments, " "), err, out)
	}
	return nil
}

// state is what a domain is doing.
type state string

const (
	running state = "running" // or paused
	halted  state = "poweroff or reboot"
	crashed state = "crash"
	gone    state = "gone"
)

// stateOf asks the hypervisor what a domain is doing.
func stateOf(id int) (state, error) {
	out, err := exec.Command(programs+"xl", "list").Output()
	if err != nil {
		return "", fmt.Errorf("xl list: %w", err)
	}
	return parseList(string(out), id), nil
}

// parseList reads xl's list of all domains: a name, id, memory, processors, one letter a state, time.
func parseList(text string, id int) state {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[1] != strconv.Itoa(id) {
			continue
		}
		switch letters := fields[4]; {
		case strings.Contains(letters, "c"):
			return crashed
		case strings.ContainsAny(letters, "sd"):
			return halted
		}
		return running
	}
	return gone
}

// build has xl create a domain, paused.
func build(ctx context.Context, c wire.Domain) error {
	if len(c.Disks) == 0 {
		return errors.New("a guest without a disk has nothing to boot from")
	}
	var disks []string
	for _, d := range c.Disks {
		text, err := describe(ctx, d)
		if err != nil {
			return err
		}
		disks = append(disks, text)
	}
	config := []string{
		setting("name", c.Name), setting("uuid", c.UUID), setting("type", string(c.Mode)),
		fmt.Sprintf("memory=%d", c.Memory), list("disk", disks),
		// With two a guest boots half as fast under emulation, and takes a whole processor of the host while it is idle.
		"vcpus=1",
		// A PVH guest dies on RDTSCP otherwise, under emulation.
		setting("tsc_mode", "native"),
		// It stays when it has ended, for the agent to look at.
		setting("on_poweroff", "preserve"), setting("on_reboot", "preserve"), setting("on_crash", "preserve"),
	}
	var interfaces []string
	for _, mac := range c.MACs {
		interfaces = append(interfaces, "type=vif,mac="+mac+",bridge="+bridge)
	}
	config = append(config, list("vif", interfaces))
	if c.Mode == wire.HVM {
		config = append(config, setting("boot", "c"), setting("bios", "seabios"), setting("hdtype", "ahci"), // IDE crawls under emulation
			setting("serial", "file:"+consoleFile(c.Mode, c.Name)), setting("vga", "none"), "nographic=1", "vnc=0")
	} else {
		kernel, release, err := mountKernel(ctx, c.Disks[0].Serial)
		if err != nil {
			return err
		}
		defer release()
		config = append(config, setting("kernel", kernel.image), setting("ramdisk", kernel.initramfs), setting("extra", kernel.commandLine))
	}
	file := "/run/" + c.Name + ".cfg"
	if err := os.WriteFile(file, []byte(strings.Join(config, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(file) }() // in dom0's memory, small, and written again for the next of this name
	// -p: paused; -e: without a process that waits for its end.
	return xl(ctx, "create", "-p", "-e", file)
}

func setting(name, value string) string { return name + "=" + strconv.Quote(value) }

func list(name string, values []string) string {
	var quoted []string
	for _, value := range values {
		quoted = append(quoted, strconv.Quote(value))
	}
	return name + "=[" + strings.Join(quoted, ",") + "]"
}
