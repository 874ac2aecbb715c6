package xapisim

import (
	"context"
	"errors"
)

// World starts machines: those of delegates, and others where a pool is told so. Implementations live in qemu-tests/worlds.
type World interface {
	// Start builds and boots a machine and returns when its domain exists, long before its software is up. ctx bounds
	// the start only; the machine lives until it powers itself off or is killed.
	Start(ctx context.Context, m Machine) (Guest, error)
}

// Machine is what a domain is built from.
type Machine struct {
	UUID           string // of the VM
	Name           string
	DomainID       int64
	UniqueDomainID string // fresh for each boot
	Memory         int64  // bytes
	VCPUs          int64
	Firmware       string            // "bios" or "uefi"
	Disks          []Disk            // attached at boot, by position, the boot disk first
	VIFs           []VIF             // by device number
	Data           map[string]string // the vm-data tree by key ("vm-data/a/b"); a key with an empty value may be a directory
}

// Disk is a disk as it is attached to a machine.
type Disk struct {
	UserDevice string // position, a decimal number
	Path       string // absolute path of a raw file
	ReadOnly   bool
}

// VIF is a virtual network interface as it is attached to a machine.
type VIF struct {
	Device string // position, a decimal number
	MAC    string // as in the pool's database, aa:bb:cc:dd:ee:ff
	MTU    int64  // bytes
}

// ErrDetachRejected is what Guest.Unplug gives when the guest refuses to let a disk go.
var ErrDetachRejected = errors.New("the guest refused to detach the disk")

// Guest is a running machine as dom0 sees it. Its methods may be called concurrently.
type Guest interface {
	// Plug attaches a disk; Unplug detaches it and returns when the guest has let it go. Unplug gives ErrDetachRejected
	// when the guest refuses, and ctx's error when it does not react in time.
	Plug(ctx context.Context, d Disk) error
	Unplug(ctx context.Context, userDevice string) error
	// SetData replaces the guest's whole vm-data tree.
	SetData(data map[string]string) error
	// Tree gives what dom0 mirrors: the trees vm-data, attr, data, feature and control by key, a directory as a key with
	// an empty value.
	Tree() (map[string]string, error)
	// Changed receives after the tree has changed; bursts are one signal.
	Changed() <-chan struct{}
	Pause() error
	Unpause() error
	// Shutdown asks the guest to power off and returns when it has acknowledged that, or with ctx's error.
	Shutdown(ctx context.Context) error
	// Kill destroys the machine at once. Done is closed when a machine is gone, whatever ended it; nothing of it runs
	// any more then and it holds no disk.
	Kill() error
	Done() <-chan struct{}
}
