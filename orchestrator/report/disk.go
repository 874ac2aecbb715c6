package report

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// DiskState says how far one disk of a run has come.
type DiskState string

// The states of a disk.
const (
	DiskPending   DiskState = "pending"   // not begun
	DiskMoving    DiskState = "moving"    // being compared and moved
	DiskFlushed   DiskState = "flushed"   // all content is on the target, not yet committed
	DiskCommitted DiskState = "committed" // clean with the run's generation
	DiskFailed    DiskState = "failed"
)

// Valid reports whether s is one of the states above.
func (s DiskState) Valid() bool {
	return slices.Contains([]DiskState{DiskPending, DiskMoving, DiskFlushed, DiskCommitted, DiskFailed}, s)
}

// Mode says how a disk was compared.
type Mode string

// The two modes. A disk whose mode is not decided yet has none ("").
const (
	Trusted   Mode = "trusted"   // against the cached manifest; the replica was not scanned
	Untrusted Mode = "untrusted" // against the replica itself, which was scanned
)

// Valid reports whether m is trusted or untrusted.
func (m Mode) Valid() bool { return m == Trusted || m == Untrusted }

// Stage names a part of the transfer's pipeline.
type Stage string

// The stages of the pipeline whose busy time is measured.
const (
	StageRead     Stage = "read"
	StageHash     Stage = "hash"
	StageCompress Stage = "compress"
	StageWire     Stage = "wire"
	StageWrite    Stage = "write"
)

// Valid reports whether s is one of the stages above.
func (s Stage) Valid() bool {
	return slices.Contains([]Stage{StageRead, StageHash, StageCompress, StageWire, StageWrite}, s)
}

// Counters are byte counts of one disk run, all in bytes of disk content but Wire. Same, Zero, Copied, Sent and Spared are
// verdicts; once a disk is done they add up to its logical size, unless its transfer was cut:
// then they are sums over the attempts.
type Counters struct {
	Read       int64 `json:"read"`               // read from the source
	ReadTarget int64 `json:"read_target"`        // read from the target: scans, candidates for copies, samples
	Same       int64 `json:"same"`               // found equal
	Zero       int64 `json:"zero"`               // zeroed, or zero on a disk that reads as zeroes
	Copied     int64 `json:"copied"`             // copied on the target from elsewhere on its disks
	Sent       int64 `json:"sent"`               // content that crossed the line, before compression
	Spared     int64 `json:"spared"`             // the rest of changed blocks of which only parts had to cross the line
	Resent     int64 `json:"resent,omitempty"`   // part of Sent: sent again after a cut, as far as its sender knows
	Assumed    int64 `json:"assumed,omitempty"`  // of the source not read, for a hint: the root is true as far as that is
	Verified   int64 `json:"verified,omitempty"` // of the target read back after it was written, and found right
	Wire       int64 `json:"wire"`               // all bytes on the line, both ways, with TLS and framing
}

// Add returns the sum of two sets of counters.
func (c Counters) Add(o Counters) Counters {
	return Counters{
		Read: c.Read + o.Read, ReadTarget: c.ReadTarget + o.ReadTarget, Same: c.Same + o.Same, Zero: c.Zero + o.Zero,
		Copied: c.Copied + o.Copied, Sent: c.Sent + o.Sent, Spared: c.Spared + o.Spared, Resent: c.Resent + o.Resent, Wire: c.Wire + o.Wire,
		Assumed: c.Assumed + o.Assumed, Verified: c.Verified + o.Verified,
	}
}

// Disk is the report of one disk run.
type Disk struct {
	Disk        string    `json:"disk"`         // userdevice: the VBD's number, decimal
	LogicalSize int64     `json:"logical_size"` // bytes
	State       DiskState `json:"state"`

	Mode     Mode   `json:"mode,omitempty"`
	Rung     string `json:"rung,omitempty"`     // the rung of trust that was reached, or that failed
	Cause    string `json:"cause,omitempty"`    // why the mode is what it is
	Untested string `json:"untested,omitempty"` // a rung that could not be tested, or not yet

	// Hinted is how many bytes change tracking said are to be read, and what is in doubt with them; 0: everything was.
	Hinted int64 `json:"hinted,omitempty"`

	Counters
	Duration time.Duration           `json:"duration_ns"`       // wall time of the transfer, of all attempts together
	Busy     map[Stage]time.Duration `json:"busy_ns,omitempty"` // time each stage was at work, in the mean of its workers; of all attempts
	// Bottleneck says in words how busy each stage was, in the last attempt: source 12 % · hash 80 % · …
	Bottleneck string `json:"bottleneck,omitempty"`

	Root string `json:"root,omitempty"` // hexadecimal root of the new manifest
}

func (d Disk) validate() error {
	switch {
	case d.Disk == "":
		return fmt.Errorf("a disk without a number")
	case d.LogicalSize < 0:
		return fmt.Errorf("disk %s: negative size %d", d.Disk, d.LogicalSize)
	case !d.State.Valid():
		return fmt.Errorf("disk %s: unknown state %q", d.Disk, d.State)
	case d.Mode != "" && !d.Mode.Valid():
		return fmt.Errorf("disk %s: unknown mode %q", d.Disk, d.Mode)
	}
	for stage := range d.Busy {
		if !stage.Valid() {
			return fmt.Errorf("disk %s: unknown stage %q", d.Disk, stage)
		}
	}
	return nil
}

func (d Disk) clone() Disk {
	d.Busy = maps.Clone(d.Busy)
	return d
}
