package xapisim

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// Config describes a pool. Zero members take the defaults that stand beside them.
type Config struct {
	Name     string // of the pool and, with a number, of its hosts
	Dir      string // folder of the SRs' folders; required
	Hosts    int    // 1; the first is the coordinator
	SRs      []SRConfig
	Networks []string // one shared network called "Pool-wide network 0"
	Username string   // "root"
	Password string   // "xenroot"
	Release  string   // code name of an older release, "ely" (7.1) to "stockholm" (8.2): fields, messages and parameters that it lacks; the newest
	World    World    // starts delegates; without one, starting a delegate is an error
	Guests   World    // starts all other VMs; without one they have the built-in guest, which runs whatever is on its disks
	Address  string   // of the first host, the others follow; a fresh 127.77.n.1
	Port     int      // on which all hosts listen; one that is free on all their addresses

	HostMemory int64    // 64 GiB, bytes each host has
	Restricted []string // licence features that the pool lacks, by name ("CBT", "Checkpoint"); see Pool.Restrict

	AuthDelay          time.Duration // 5 s, before a wrong password is answered
	SessionLifetime    time.Duration // 24 h, of an idle session
	MaxSessions        int           // 500, of one originator and of one user; the oldest go first
	MaxTasks           int           // 200; the oldest finished ones go first
	TaskLifetime       time.Duration // 65 min, that a finished task is kept
	MaxQueue           int           // 100, calls that wait for a conflicting one
	EventDelay         time.Duration // 50 ms, in which event.from gathers a burst; negative for none
	GuestDelay         time.Duration // 20 ms, until the agent of a built-in guest is up
	GuestMetricsDelay  time.Duration // 20 ms, from the start of a VM until it has guest metrics
	HotplugTimeout     time.Duration // 300 s, for a guest to let a disk go
	ShutdownAckTimeout time.Duration // 60 s, for a guest to acknowledge a shutdown
	ShutdownTimeout    time.Duration // 1200 s, for it to power off then
	BootDelay          time.Duration // none, in which a host that starts answers HOST_STILL_BOOTING
	HostDeadDelay      time.Duration // 600 s, until a host that is down counts as not live
	ConflictTimeout    time.Duration // 2 h, that a call waits for a conflicting one
	CoalesceDelay      time.Duration // 200 ms, from a snapshot's end or a scan until base copies are merged; negative for never
}

// SRConfig describes a storage repository.
type SRConfig struct {
	Name     string
	Type     string // "nfs", "ext", "lvm", "iso", …; "nfs" when shared, else "ext"
	Shared   bool   // plugged on all hosts; else on Host only
	Host     int    // number of the host of a local SR
	Capacity int64  // bytes; 1 TiB
	Garbage  bool   // new volumes are full of noise; only for types that promise no zeroes (lvm…)
}

// pools numbers the pools of a process, so that each has addresses of its own.
var pools atomic.Uint32

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("xapisim: Config.Dir is empty: the disks of the pool need a folder")
	}
	if c.Hosts < 0 || c.Hosts > 64 {
		return c, fmt.Errorf("xapisim: %d hosts: want 1 to 64", c.Hosts)
	}
	c.Hosts = max(1, c.Hosts)
	c.Username, c.Password = cmp.Or(c.Username, "root"), cmp.Or(c.Password, "xenroot")
	c.Address = cmp.Or(c.Address, fmt.Sprintf("127.77.%d.1", pools.Add(1)%256))
	if ip := net.ParseIP(c.Address).To4(); ip == nil || int(ip[3])+c.Hosts > 256 {
		return c, fmt.Errorf("xapisim: Config.Address %q: want an IPv4 address with room for %d hosts after it", c.Address, c.Hosts)
	}
	if c.Port < 0 || c.Port > 65535 {
		return c, fmt.Errorf("xapisim: Config.Port %d: want 1 to 65535, or 0 for any", c.Port)
	}
	if len(c.Networks) == 0 {
		c.Networks = []string{"Pool-wide network 0"}
	}
	c.HostMemory = cmp.Or(c.HostMemory, 64<<30)
	c.AuthDelay = cmp.Or(c.AuthDelay, 5*time.Second)
	c.SessionLifetime = cmp.Or(c.SessionLifetime, 24*time.Hour)
	c.MaxSessions, c.MaxTasks = cmp.Or(c.MaxSessions, 500), cmp.Or(c.MaxTasks, 200)
	c.TaskLifetime, c.MaxQueue = cmp.Or(c.TaskLifetime, 65*time.Minute), cmp.Or(c.MaxQueue, 100)
	c.EventDelay = cmp.Or(c.EventDelay, 50*time.Millisecond)
	c.GuestDelay = cmp.Or(c.GuestDelay, 20*time.Millisecond)
	c.GuestMetricsDelay = cmp.Or(c.GuestMetricsDelay, 20*time.Millisecond)
	c.HotplugTimeout = cmp.Or(c.HotplugTimeout, 300*time.Second)
	c.ShutdownAckTimeout = cmp.Or(c.ShutdownAckTimeout, 60*time.Second)
	c.ShutdownTimeout = cmp.Or(c.ShutdownTimeout, 1200*time.Second)
	c.HostDeadDelay = cmp.Or(c.HostDeadDelay, 600*time.Second)
	c.ConflictTimeout = cmp.Or(c.ConflictTimeout, 2*time.Hour)
	c.CoalesceDelay = cmp.Or(c.CoalesceDelay, 200*time.Millisecond)
	srs := slices.Clone(c.SRs)
	for n := range srs {
		if err := srs[n].complete(c.Hosts); err != nil {
			return c, err
		}
	}
	c.SRs = srs
	return c, nil
}

const defaultCapacity = 1 << 40 // bytes of an SR

func (s *SRConfig) complete(hosts int) error {
	if s.Name == "" {
		return errors.New("xapisim: an SR without a name")
	}
	if s.Type == "" {
		s.Type = map[bool]string{true: "nfs", false: "ext"}[s.Shared]
	}
	if s.Host < 0 || s.Host >= hosts {
		return fmt.Errorf("xapisim: SR %s: host %d of %d", s.Name, s.Host, hosts)
	}
	if s.Garbage && !slices.Contains(thickTypes, s.Type) {
		return fmt.Errorf("xapisim: SR %s: new volumes of type %s read as zeroes, they cannot hold garbage", s.Name, s.Type)
	}
	s.Capacity = cmp.Or(s.Capacity, defaultCapacity)
	if s.Capacity < 0 {
		return fmt.Errorf("xapisim: SR %s: capacity %d", s.Name, s.Capacity)
	}
	return nil
}
