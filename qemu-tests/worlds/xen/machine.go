package xen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen/dom0"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen/wire"
)

// memory is the outer machine's in MiB: Xen and dom0 take 700, the guests have the rest.
const memory = "1536"

// arguments are the outer QEMU's. PV dom0 dies of SMAP early, and PVH guests now and then of AVX, under emulation. Commas part
// the modules that Xen is given, so that none may stand in dom0's arguments; QEMU wants those of paths doubled.
func arguments(o Options, parts dom0.Parts, initramfs, qmpSocket, agentSocket, console string) []string {
	path := func(p string) string { return strings.ReplaceAll(p, ",", ",,") }
	return []string{
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,-smap,-xsave,-avx,-avx2", "-smp", "2", "-m", memory,
		"-no-reboot", "-nodefaults", "-display", "none",
		"-kernel", parts.Hypervisor, "-initrd", path(parts.Kernel) + " console=hvc0 quiet loglevel=4," + path(initramfs),
		"-append", "dom0_mem=640M,max:640M dom0_max_vcpus=1 console=com1 com1=115200,8n1 loglvl=warning guest_loglvl=warning noreboot",
		"-netdev", "stream,id=n0,server=off,addr.type=unix,addr.path=" + path(o.LAN.Socket()), "-device", "e1000,netdev=n0",
		"-device", "virtio-scsi-pci,id=" + scsiController,
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,server=on,wait=off,path=" + path(agentSocket),
		"-device", "virtserialport,chardev=agent,name=" + wire.PortName,
		"-qmp", "unix:" + path(qmpSocket) + ",server=on,wait=off",
		"-serial", "file:" + console,
	}
}

// machine is the outer QEMU. Its context ends with it, and with the reason.
type machine struct {
	command *exec.Cmd
	context context.Context
}

// startMachine starts QEMU and the goroutine that waits for its end. The goroutine keeps its thread: the kernel sends the signal of
// Pdeathsig when the thread that started the process ends, not when the program does.
func startMachine(arguments []string) (*machine, error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	m := &machine{command: exec.Command("qemu-system-x86_64", arguments...), context: ctx}
	var complaints bytes.Buffer
	m.command.Stderr = &complaints
	m.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := m.command.Start()
		started <- err
		if err != nil {
			return
		}
		err = m.command.Wait()
		cancel(fmt.Errorf("QEMU has ended: %v: %s", err, complaints.String()))
	}()
	if err := <-started; err != nil {
		cancel(err)
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("%w; hack/deps xen installs it", err)
		}
		return nil, err
	}
	return m, nil
}

// kill ends QEMU and waits for its end.
func (m *machine) kill() {
	_ = m.command.Process.Kill() // it may have ended by itself
	<-m.context.Done()
}
