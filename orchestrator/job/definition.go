package job

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

// Bounds and defaults of a definition.
const (
	DefaultParallel  = 2 // VMs at a time
	MaxParallel      = 64
	DefaultRetention = 3 // restore points of each replica
	MaxRetention     = 16
	maxSelectors     = 1000
	maxNameLength    = 100
)

// Definition is everything that an administrator orders.
type Definition struct {
	Name   string     `json:"name"`   // unique among the jobs
	Source string     `json:"source"` // uuid of the pool
	Target string     `json:"target"` // uuid of the pool; may be the same
	VMs    []Selector `json:"vms"`    // what any of them chooses, but for what one with Exclude does
	// SR takes the disks, by name or uuid; DiskSRs, by the source disk's number, those that are to lie elsewhere.
	SR      string            `json:"sr"`
	DiskSRs map[string]string `json:"disk_srs,omitempty"`
	// Networks gives the target network, by name or uuid, for a source network's name.
	Networks map[string]string `json:"networks,omitempty"`
	// NamePattern names a replica; "{vm}" stands for its source's name. Empty: "{vm} (replica)".
	NamePattern string  `json:"name_pattern,omitempty"`
	Options     Options `json:"options"`
}

// Options say how each VM run of a job goes. The zero value of each is its default.
type Options struct {
	Method    report.Method    `json:"method,omitempty"`    // empty: enhanced
	Direction report.Direction `json:"direction,omitempty"` // empty: push
	Trust     bool             `json:"trust,omitempty"`     // trust the integrity of the destination
	// KeepTarget refuses a replica that is there already ('overwrite target' off).
	KeepTarget bool               `json:"keep_target,omitempty"`
	NewMACs    bool               `json:"new_macs,omitempty"`
	CBT        string             `json:"cbt,omitempty"`       // change tracking of the source's storage: on, where it is to be had, or off; empty: on
	ReadBack   string             `json:"read_back,omitempty"` // none, sample or full; empty: sample
	Limit      ratelimit.Schedule `json:"limit,omitempty"`     // of each VM run
	Retention  int                `json:"retention,omitempty"` // restore points; 0: DefaultRetention
	// RequireRestorePoint makes a run that could take no new restore point fail before its first write.
	RequireRestorePoint bool `json:"require_restore_point,omitempty"`
	// Consistency says whether VMs that run are paused while they are snapshotted; empty: disk.
	Consistency report.Consistency `json:"consistency,omitempty"`
	// DropVTPM replicates a VM with a virtual TPM without it; else such a VM is refused.
	DropVTPM bool `json:"drop_vtpm,omitempty"`
	Parallel int  `json:"parallel,omitempty"` // VMs at a time; 0: DefaultParallel
}

// Selector chooses VMs of the source pool. Exactly one of UUID, Name, Tag and Pattern is set. Templates, snapshots, control
// domains, delegates and replicas are never chosen, but for replicas that do their sources' work.
type Selector struct {
	UUID    string `json:"uuid,omitempty"`
	Name    string `json:"name,omitempty"`    // exact; several VMs of that name are all chosen
	Tag     string `json:"tag,omitempty"`     // exact
	Pattern string `json:"pattern,omitempty"` // of names: '*' stands for any text, '?' for a character
	Exclude bool   `json:"exclude,omitempty"` // what it chooses is left out
}

// ParseSelector reads what an administrator writes: 'uuid:…', 'name:…', 'tag:…' or 'pattern:…', or a text without such a prefix,
// which is a uuid when it looks like one, a pattern when it holds a '*' or '?', else a name. A '!' before it excludes.
func ParseSelector(text string) (Selector, error) {
	var s Selector
	text, s.Exclude = strings.CutPrefix(strings.TrimSpace(text), "!")
	for prefix, field := range map[string]*string{"uuid:": &s.UUID, "name:": &s.Name, "tag:": &s.Tag, "pattern:": &s.Pattern} {
		if rest, ok := strings.CutPrefix(text, prefix); ok {
			*field = rest
			return s, s.validate()
		}
	}
	switch {
	case uuidShape.MatchString(text):
		s.UUID = text
	case strings.ContainsAny(text, "*?"):
		s.Pattern = text
	default:
		s.Name = text
	}
	return s, s.validate()
}

var uuidShape = regexp.MustCompile(`^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$`)

// String is the inverse of ParseSelector.
func (s Selector) String() string {
	text := ""
	switch {
	case s.UUID != "":
		text = "uuid:" + s.UUID
	case s.Tag != "":
		text = "tag:" + s.Tag
	case s.Pattern != "":
		text = "pattern:" + s.Pattern
	default:
		text = "name:" + s.Name
	}
	if s.Exclude {
		text = "!" + text
	}
	return text
}

func (s Selector) validate() error {
	set := 0
	for _, field := range []string{s.UUID, s.Name, s.Tag, s.Pattern} {
		if field != "" {
			set++
		}
	}
	if set != 1 {
		return errors.New("a selector needs one of uuid, name, tag and pattern")
	}
	return nil
}

// Matches reports whether the selector means a VM, whatever Exclude says.
func (s Selector) Matches(uuid, name string, tags []string) bool {
	switch {
	case s.UUID != "":
		return strings.EqualFold(s.UUID, uuid)
	case s.Tag != "":
		for _, tag := range tags {
			if tag == s.Tag {
				return true
			}
		}
		return false
	case s.Pattern != "":
		return matchPattern(s.Pattern, name)
	}
	return s.Name == name
}

// matchPattern is a glob of '*' and '?' over characters; everything else stands for itself.
func matchPattern(pattern, name string) bool {
	var expression strings.Builder
	for _, c := range pattern {
		switch c {
		case '*':
			expression.WriteString(".*")
		case '?':
			expression.WriteString(".")
		default:
			expression.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	matched, err := regexp.MatchString("(?s)^"+expression.String()+"$", name)
	return err == nil && matched // every pattern compiles, being quoted
}

// Validate names everything that is missing or cannot be, joined.
func (d Definition) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if d.Name == "" || len(d.Name) > maxNameLength || strings.TrimSpace(d.Name) != d.Name || strings.ContainsFunc(d.Name, isControl) {
		wrong("the job's name %.120q: give one of 1 to %d characters, without blanks around it", d.Name, maxNameLength)
	}
	if d.Source == "" || d.Target == "" || d.SR == "" {
		wrong("a job needs a source pool, a target pool and a storage repository")
	}
	chosen := 0
	for _, s := range d.VMs {
		if err := s.validate(); err != nil {
			wrong("selector %s: %w", s, err)
		}
		if !s.Exclude {
			chosen++
		}
	}
	if chosen == 0 || len(d.VMs) > maxSelectors {
		wrong("a job needs something that chooses VMs, and at most %d selectors", maxSelectors)
	}
	for disk := range d.DiskSRs {
		if n, err := strconv.Atoi(disk); err != nil || n < 0 || strconv.Itoa(n) != disk {
			wrong("disk %q: name a disk by the number of its device, such as 0", disk)
		}
	}
	return errors.Join(append(errs, d.Options.validate())...)
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func (o Options) validate() error {
	var errs []error
	if o.Method != "" && !o.Method.Valid() {
		errs = append(errs, fmt.Errorf("method %q: it is enhanced or standard", o.Method))
	}
	if o.Direction != "" && !o.Direction.Valid() {
		errs = append(errs, fmt.Errorf("direction %q: it is push or pull", o.Direction))
	}
	if o.Consistency != "" && !o.Consistency.Valid() {
		errs = append(errs, fmt.Errorf("consistency %q: it is disk or paused", o.Consistency))
	}
	switch o.CBT {
	case "", "on", "off":
	default:
		errs = append(errs, fmt.Errorf("change tracking %q: it is on or off", o.CBT))
	}
	switch o.ReadBack {
	case "", "none", "sample", "full":
	default:
		errs = append(errs, fmt.Errorf("read back %q: it is none, sample or full", o.ReadBack))
	}
	if o.Retention < 0 || o.Retention > MaxRetention {
		errs = append(errs, fmt.Errorf("retention of %d restore points: keep 1 to %d", o.Retention, MaxRetention))
	}
	if o.Parallel < 0 || o.Parallel > MaxParallel {
		errs = append(errs, fmt.Errorf("%d VMs at a time: 1 to %d", o.Parallel, MaxParallel))
	}
	return errors.Join(errs...)
}
