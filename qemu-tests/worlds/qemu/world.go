package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// Options of a world. Only Dir is needed.
type Options struct {
	// Dir holds a folder for each machine. The folders stay, for their logs.
	Dir string
	// Network is the unix socket of the network that all machines share, as LAN.Socket of package lan gives it; empty: each
	// interface's cable ends nowhere.
	Network string

	Program      string // of QEMU; default qemu-system-x86_64
	Accelerator  string // default tcg,thread=multi
	FirmwareCode string // of machines with firmware "uefi"; default Debian's OVMF
	FirmwareVars string // copied for each machine

	// Direct boots a kernel instead of the first disk, past all firmware but a stub.
	Direct *Direct
	// Mute leaves the configuration out: the machine has neither fw_cfg item nor port.
	Mute bool
	// Clock is what the machine's clock shows at the start; zero: the time.
	Clock time.Time
	// BlockSize is the logical block size of plugged disks in bytes, 512 or 4096; default 512.
	BlockSize int
}

// Direct is a kernel with what it needs.
type Direct struct {
	Kernel, Initramfs string // paths
	CommandLine       string
}

// maxConfiguration bounds what is handed to a machine, in bytes.
const maxConfiguration = 64 << 10

// World starts machines by QEMU. Each ends by itself, through its pool, or with this process.
type World struct {
	options Options

	mu       sync.Mutex
	machines map[string]*machine // by the VM's uuid, those that run
}

var _ xapisim.World = (*World)(nil)

// New makes a world. It starts nothing.
func New(o Options) *World {
	for _, d := range []struct {
		field    *string
		standard string
	}{
		{&o.Program, "qemu-system-x86_64"},
		{&o.Accelerator, "tcg,thread=multi"},
		{&o.FirmwareCode, "/usr/share/OVMF/OVMF_CODE_4M.fd"},
		{&o.FirmwareVars, "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	} {
		if *d.field == "" {
			*d.field = d.standard
		}
	}
	if o.BlockSize == 0 {
		o.BlockSize = 512
	}
	return &World{options: o, machines: map[string]*machine{}}
}

// Start writes the machine's folder and starts QEMU. It returns when QEMU answers, which is when the firmware begins.
func (w *World) Start(ctx context.Context, m xapisim.Machine) (xapisim.Guest, error) {
	g, err := w.start(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("guest of VM %s: %w", m.Name, err)
	}
	w.mu.Lock()
	w.machines[m.UUID] = g
	w.mu.Unlock()
	g.watch(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.machines[m.UUID] == g {
			delete(w.machines, m.UUID)
		}
	})
	return g, nil
}

func (w *World) start(ctx context.Context, m xapisim.Machine) (*machine, error) {
	dir, err := filepath.Abs(filepath.Join(w.options.Dir, m.UUID+"."+strconv.FormatInt(m.DomainID, 10)))
	if err != nil {
		return nil, err
	}
	configuration, err := encode(m)
	if err != nil {
		return nil, err
	}
	if err := w.prepare(dir, m.Firmware, configuration); err != nil {
		return nil, err
	}
	arguments, disks, err := w.options.arguments(dir, m)
	if err != nil {
		return nil, err
	}
	return run(ctx, w.options, dir, arguments, disks, newTree(m))
}

// encode makes the item of fw_cfg: every key that a guest may read when it boots.
func encode(m xapisim.Machine) ([]byte, error) {
	for _, key := range slices.Sorted(maps.Keys(m.Data)) {
		if err := checkData(key, m.Data[key]); err != nil {
			return nil, err
		}
	}
	keys := maps.Clone(m.Data)
	if keys == nil {
		keys = map[string]string{}
	}
	keys["vm"], keys["unique-domain-id"] = "/vm/"+m.UUID, m.UniqueDomainID
	content, err := json.Marshal(keys)
	if err == nil && len(content) > maxConfiguration {
		err = fmt.Errorf("its vm-data has %d bytes in JSON, more than %d", len(content), maxConfiguration)
	}
	return content, err
}

// prepare makes the machine's folder anew.
func (w *World) prepare(dir, firmware string, configuration []byte) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, configurationFile), configuration, 0o644); err != nil {
		return err
	}
	if firmware != "uefi" || w.options.Direct != nil {
		return nil
	}
	content, err := os.ReadFile(w.options.FirmwareVars)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("UEFI needs Debian's package ovmf: hack/deps e2e installs it: %w", err)
	} else if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, variablesFile), content, 0o644)
}

// Guest gives the running machine of a VM, past its pool: to do what no pool would.
func (w *World) Guest(vm string) (xapisim.Guest, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g, ok := w.machines[vm]
	return g, ok
}
