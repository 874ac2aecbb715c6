package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// options are the flags as they were given.
type options struct {
	name, address, username, password, dir, faults string
	hosts, port                                    int
	srs, networks, vms                             []string
	asJSON                                         bool
}

// plan is what the flags ask for.
type plan struct {
	config    xapisim.Config
	temporary bool // a folder is made for the disks, and removed at the end
	vms       []xapisim.VMConfig
	faults    xapisim.Faults
	asJSON    bool
}

func (o *options) flags(command *cobra.Command) {
	f := command.Flags()
	f.StringVar(&o.name, "name", "simulated", "`name` of the pool")
	f.IntVar(&o.hosts, "hosts", 1, "`number` of hosts; the first is the coordinator")
	f.StringVar(&o.address, "address", "127.0.0.1", "IPv4 `address` of the first host; the others follow it")
	f.IntVar(&o.port, "port", 0, "`port` of all hosts; 0 takes one that is free")
	f.StringVar(&o.username, "username", "root", "`user` that may log in")
	f.StringVar(&o.password, "password", "xenroot", "the user's `password`")
	f.StringArrayVar(&o.srs, "sr", []string{"nfs:shared"},
		"a storage repository, `TYPE:NAME[,capacity=SIZE][,host=NUMBER][,garbage]`; types "+strings.Join(sharedTypes, ", ")+
			" are shared, "+strings.Join(localTypes, ", ")+" are of one host, the first or that of host=; garbage: new volumes of lvm… hold noise")
	f.StringArrayVar(&o.networks, "network", []string{"Pool-wide network 0"}, "`name` of a network that all hosts have")
	f.StringArrayVar(&o.vms, "vm", nil,
		"a VM with its disks, `NAME[:SIZE,…][,sr=NAME][,memory=SIZE][,vcpus=NUMBER][,firmware=bios|uefi][,running][,no-drivers]`")
	f.StringVar(&o.dir, "dir", "", "`folder` of the disks, which stays (default: a temporary one, removed at the end)")
	f.StringVar(&o.faults, "faults", "", "JSON `file` of rules that make calls go wrong")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON document instead of a table")
}

// plan checks the flags. What it does not know is refused by name.
func (o *options) plan() (plan, error) {
	p := plan{temporary: o.dir == "", asJSON: o.asJSON, config: xapisim.Config{
		Name: o.name, Dir: o.dir, Hosts: o.hosts, Networks: o.networks, Username: o.username, Password: o.password,
		Address: o.address, Port: o.port,
	}}
	if o.hosts < 1 {
		return plan{}, fmt.Errorf("--hosts %d: a pool has at least one", o.hosts)
	}
	for _, text := range o.srs {
		sr, err := parseSR(text)
		if err != nil {
			return plan{}, fmt.Errorf("--sr %s: %w", text, err)
		}
		p.config.SRs = append(p.config.SRs, sr)
	}
	for _, text := range o.vms {
		vm, err := parseVM(text)
		if err != nil {
			return plan{}, fmt.Errorf("--vm %s: %w", text, err)
		}
		vm.Networks = o.networks[:1]
		p.vms = append(p.vms, vm)
	}
	if o.faults != "" {
		data, err := os.ReadFile(o.faults)
		if err != nil {
			return plan{}, fmt.Errorf("--faults: %w", err)
		}
		if p.faults, err = xapisim.ParseFaults(data); err != nil {
			return plan{}, fmt.Errorf("--faults %s: %w", o.faults, err)
		}
	}
	return p, nil
}

var (
	sharedTypes = []string{"nfs", "smb", "iso", "lvmoiscsi", "lvmohba", "cephfs", "glusterfs"}
	localTypes  = []string{"ext", "lvm", "file", "xfs", "zfs"}
)

func parseSR(text string) (xapisim.SRConfig, error) {
	kind, rest, _ := strings.Cut(text, ":")
	fields := strings.Split(rest, ",")
	sr := xapisim.SRConfig{Type: kind, Name: fields[0], Shared: slices.Contains(sharedTypes, kind)}
	if sr.Name == "" {
		return sr, errors.New("want TYPE:NAME, such as nfs:shared")
	}
	if !sr.Shared && !slices.Contains(localTypes, kind) {
		return sr, fmt.Errorf("there is no type %q; want one of %s", kind, strings.Join(slices.Concat(sharedTypes, localTypes), ", "))
	}
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(field, "=")
		var err error
		switch {
		case key == "capacity":
			sr.Capacity, err = parseSize(value)
		case key == "host" && sr.Shared:
			err = errors.New("a shared one has no host")
		case key == "host":
			sr.Host, err = strconv.Atoi(value)
		case field == "garbage":
			sr.Garbage = true
		default:
			err = errors.New("not known; want capacity=SIZE, host=NUMBER or garbage")
		}
		if err != nil {
			return sr, fmt.Errorf("%q: %w", field, err)
		}
	}
	return sr, nil
}

func parseVM(text string) (xapisim.VMConfig, error) {
	name, rest, _ := strings.Cut(text, ":")
	vm := xapisim.VMConfig{Name: name}
	if name == "" {
		return vm, errors.New("want NAME:SIZE, such as web:8GiB")
	}
	var sr string
	for field := range strings.SplitSeq(rest, ",") {
		key, value, given := strings.Cut(field, "=")
		var err error
		switch {
		case rest == "":
		case key == "sr":
			sr = value
		case key == "memory":
			vm.Memory, err = parseSize(value)
		case key == "vcpus":
			vm.VCPUs, err = strconv.ParseInt(value, 10, 16)
		case key == "firmware" && (value == "bios" || value == "uefi"):
			vm.Firmware = value
		case field == "running":
			vm.Running = true
		case field == "no-drivers":
			vm.NoDrivers = true
		case given:
			err = errors.New("not known; want sr=NAME, memory=SIZE, vcpus=NUMBER, firmware=bios or firmware=uefi")
		default:
			var size int64
			size, err = parseSize(field)
			vm.Disks = append(vm.Disks, xapisim.DiskConfig{Size: size})
		}
		if err != nil {
			return vm, fmt.Errorf("%q: %w", field, err)
		}
	}
	for n := range vm.Disks {
		vm.Disks[n].SR = sr
	}
	return vm, nil
}

// maxSize is the largest virtual size that any type of SR takes, with room to spare.
const maxSize = 1 << 50

// parseSize reads 8GiB, 8GB or a number of bytes.
func parseSize(text string) (int64, error) {
	size, err := humanize.ParseBytes(text)
	if err != nil || size == 0 || size > maxSize {
		return 0, fmt.Errorf("no size: want such as 8GiB, at most %s", humanize.IBytes(maxSize))
	}
	return int64(size), nil
}
