package control

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

// Kind says what a task does.
type Kind string

// The kinds of tasks.
const (
	KindScan    Kind = "scan"    // reads and hashes a disk
	KindSend    Kind = "send"    // sends a disk to one or more sinks
	KindReceive Kind = "receive" // writes a disk from what one sender sends
	KindCopy    Kind = "copy"    // writes one disk from another inside the delegate
	KindVerify  Kind = "verify"  // reads a disk back, or a sample of it, and compares it with the known digests
)

// Trusted says what is known of a target's content without scanning it.
type Trusted string

// What a sender may trust. TrustManifest has the extent digests sent for each sink by PUT baseline; TrustKnown takes those of
// PUT known, for the usual case that the one sink's cached manifest is also what the records are reported against: they then
// travel, and are held, once. TrustPeer is for a receive: its sender was given the manifest, or the word that all is zero.
const (
	TrustNone     Trusted = ""
	TrustZero     Trusted = "zero"
	TrustManifest Trusted = "manifest"
	TrustKnown    Trusted = "known"
	TrustPeer     Trusted = "peer"
)

// Peer is the other end of a data connection.
type Peer struct {
	Fingerprint netproto.Fingerprint `json:"fingerprint"`
	// Address is what to dial, "ip:port"; empty: listen for the peer.
	Address string `json:"address,omitempty"`
	// Token joins the two ends: 16 to MaxToken random bytes, the same in both tasks. It is never logged nor told back.
	Token Token `json:"token"`
}

// Sink is one receiver of a send.
type Sink struct {
	Peer
	Trusted Trusted `json:"trusted,omitempty"`
	Records bool    `json:"records,omitempty"` // keep a journal for this sink
}

// Seed is a disk in the receiving delegate that is read for content.
type Seed struct {
	Device int   `json:"device"` // VBD number
	Size   int64 `json:"size"`   // logical size in bytes; no more is read
}

// Tuning bounds one task; zero values are the delegate's choice.
type Tuning struct {
	// Parallel is how many transfers the orchestrator means to run at once in this delegate, 1 to 4 (default). Each gets its part of
	// the buffers, and with it the depth of its queue, and of the windows; while so many run, others wait for their turn. Extent
	// digests of very large disks lessen the buffers, and may let fewer run.
	Parallel    int                  `json:"parallel,omitempty"`
	QueueDepth  int                  `json:"queue_depth,omitempty"` // reads in flight, at most 64
	Compression transfer.Compression `json:"compression,omitempty"`
	Parts       transfer.Parts       `json:"parts,omitempty"` // of a send and a copy
}

// TaskSpec says what to do.
type TaskSpec struct {
	// ID is the task's name, chosen by the orchestrator and told to both ends of a transfer: 1..64 of A–Z a–z 0–9 . _ -
	ID   string `json:"id"`
	Kind Kind   `json:"kind"`
	// Device is the VBD number of the disk: the source of scan, verify, send and copy, the target of receive.
	Device int `json:"device"`
	// Target is the VBD number of a copy's target.
	Target int `json:"target,omitempty"`
	// Size is the logical size in bytes; no more is read or written.
	Size int64 `json:"size"`
	// KeyID names the digest key, which the delegate must hold by then.
	KeyID manifest.KeyID `json:"key_id"`
	// Generation is the orchestrator's word that 'dirty' with this generation is durable. A task that writes needs it; others
	// must not have it.
	Generation manifest.Generation `json:"generation,omitzero"`
	// Known says that extent digests come by PUT known, against which records are reported.
	Known bool `json:"known,omitempty"`
	// Records keeps a journal: of what was scanned, received or copied. A send has them by sink.
	Records bool `json:"records,omitempty"`
	// Trusted is what is known of the target of a copy or receive. A send has it by sink.
	Trusted Trusted `json:"trusted,omitempty"`
	Peer    *Peer   `json:"peer,omitempty"`  // of a receive
	Sinks   []Sink  `json:"sinks,omitempty"` // of a send
	Tuning  Tuning  `json:"tuning,omitzero"`
	// Start is the first extent to work on: what lies below is durable on the target and was journalled by an earlier task of the same
	// generation, on a host that has not rebooted since. There is no root then.
	Start uint32 `json:"start,omitempty"`
	// Resumed says, of a task that writes, that an earlier one may have written beyond Start.
	Resumed bool `json:"resumed,omitempty"`
	// ResumeSeconds is how long a send and a receive try to meet again after their connection was cut, counted from the last time
	// that they came further; 0: not at all.
	ResumeSeconds int   `json:"resume_seconds,omitempty"`
	Hint          *Hint `json:"hint,omitempty"`
	// Sample is what a verify reads; its zero value is the whole disk. Only the digests of these extents come by PUT known.
	Sample transfer.Sample `json:"sample,omitzero"`
	// Seeds are disks that may hold some of what a receive is sent, as another replica made from the same template: content that
	// one of them holds does not travel. They are only read; they must not change meanwhile, so they are clones of restore points.
	// A receive with seeds takes twice the least memory: two at most run at once.
	Seeds []Seed `json:"seeds,omitempty"`
}

// MaxResume bounds TaskSpec.ResumeSeconds: a week.
const MaxResume = 7 * 24 * 3600

// maxEvery bounds Sample.Every.
const maxEvery = 1 << 16

var taskID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// maxDevice is the highest VBD number that xapi gives (xapi-facts §8.1).
const maxDevice = 255

// Validate checks everything that can be told without looking at the delegate. Both ends call it.
func (s *TaskSpec) Validate() error {
	if !taskID.MatchString(s.ID) {
		return fmt.Errorf("task id %.80q: it has 1 to 64 characters of A-Z a-z 0-9 . _ -", s.ID)
	}
	if err := s.validate(); err != nil {
		return fmt.Errorf("task %s: %w", s.ID, err)
	}
	return nil
}

func (s *TaskSpec) validate() error {
	if err := (manifest.Geometry{Size: s.Size}).Validate(); err != nil {
		return err
	}
	switch {
	case s.Device < 0 || s.Device > maxDevice || s.Target < 0 || s.Target > maxDevice:
		return fmt.Errorf("devices are numbered 0 to %d", maxDevice)
	case s.KeyID == (manifest.KeyID{}):
		return errors.New("no key_id: name the digest key")
	case s.Writes() && s.Generation.IsZero():
		return fmt.Errorf("a %s writes a disk and needs the generation under which it was marked dirty", s.Kind)
	case !s.Writes() && !s.Generation.IsZero():
		return fmt.Errorf("a %s writes nothing and takes no generation", s.Kind)
	case s.Start > (manifest.Geometry{Size: s.Size}).Extents():
		return fmt.Errorf("start is extent %d, a disk of %d bytes has %d", s.Start, s.Size, (manifest.Geometry{Size: s.Size}).Extents())
	case s.Resumed && !s.Writes():
		return fmt.Errorf("a %s writes nothing and takes no resumed", s.Kind)
	case s.ResumeSeconds < 0 || s.ResumeSeconds > MaxResume:
		return fmt.Errorf("resume_seconds is 0 (default) to %d", MaxResume)
	case s.ResumeSeconds > 0 && s.Kind != KindSend && s.Kind != KindReceive:
		return fmt.Errorf("a %s has no connection and takes no resume_seconds", s.Kind)
	case s.Tuning.Parallel < 0 || s.Tuning.Parallel > MaxTransfers:
		return fmt.Errorf("parallel is 0 (default) to %d", MaxTransfers)
	case s.Tuning.QueueDepth < 0 || s.Tuning.QueueDepth > 64:
		return errors.New("queue_depth is 0 (default) to 64")
	}
	switch s.Tuning.Compression {
	case "", transfer.CompressionAuto, transfer.CompressionOn, transfer.CompressionOff:
	default:
		return fmt.Errorf("unknown compression %.20q: use auto, on or off", s.Tuning.Compression)
	}
	switch s.Tuning.Parts {
	case "", transfer.PartsAuto, transfer.PartsOn, transfer.PartsOff:
	default:
		return fmt.Errorf("unknown parts %.20q: use auto, on or off", s.Tuning.Parts)
	}
	return errors.Join(s.validateKind(), s.validateHint())
}

func (s *TaskSpec) validateKind() error {
	if (s.Peer != nil) != (s.Kind == KindReceive) {
		return errors.New("a receive has one peer, other tasks none")
	}
	if (len(s.Sinks) > 0) != (s.Kind == KindSend) || len(s.Sinks) > MaxSinks {
		return fmt.Errorf("a send has 1 to %d sinks, other tasks none", MaxSinks)
	}
	if s.Kind != KindCopy && s.Target != 0 {
		return errors.New("only a copy has a target")
	}
	if s.Kind != KindVerify && s.Sample != (transfer.Sample{}) {
		return errors.New("only a verify has a sample")
	}
	if !s.Writes() && s.Trusted != TrustNone {
		return errors.New("only a copy and a receive have trusted; a send has it by sink")
	}
	if err := s.validateSeeds(); err != nil {
		return err
	}
	switch s.Kind {
	case KindScan:
		return nil
	case KindVerify:
		switch {
		case !s.Known || s.Records:
			return errors.New("a verify needs known digests, and has no records")
		case s.Sample.Every > maxEvery || s.Sample.First > 0 && s.Sample.First >= s.Sample.Every:
			return fmt.Errorf("sample %d of %d: every is at most %d, first below every", s.Sample.First, s.Sample.Every, maxEvery)
		case s.KnownExtents() == 0:
			return fmt.Errorf("sample %d of %d holds no extent of a disk of %d bytes", s.Sample.First, s.Sample.Every, s.Size)
		}
		return nil
	case KindCopy:
		if s.Target == s.Device {
			return fmt.Errorf("device %d cannot be copied onto itself", s.Device)
		}
		return s.validateTrusted(s.Trusted)
	case KindReceive:
		switch {
		case s.Trusted != TrustNone && s.Trusted != TrustPeer:
			return fmt.Errorf("trusted %.20q: a receive has peer or nothing", s.Trusted)
		case s.Trusted == TrustPeer && (s.Known || s.Records):
			return errors.New("a trusted receive cannot report records, it does not know the blocks that stay: have the sender do so")
		}
		return s.Peer.validate()
	case KindSend:
		if s.Records {
			return errors.New("a send has records by sink")
		}
		tokens := make(map[string]bool, len(s.Sinks))
		for i, sink := range s.Sinks {
			if err := errors.Join(sink.validate(), s.validateTrusted(sink.Trusted)); err != nil {
				return fmt.Errorf("sink %d: %w", i, err)
			}
			if tokens[string(sink.Token)] {
				return fmt.Errorf("sink %d: its token is also another sink's", i)
			}
			tokens[string(sink.Token)] = true
		}
		return nil
	default:
		return fmt.Errorf("unknown kind %.20q: use scan, verify, send, receive or copy", s.Kind)
	}
}

func (s *TaskSpec) validateSeeds() error {
	if len(s.Seeds) > 0 && s.Kind != KindReceive {
		return errors.New("only a receive has seeds")
	}
	if len(s.Seeds) > transfer.MaxSeeds {
		return fmt.Errorf("%d seeds: a receive has at most %d", len(s.Seeds), transfer.MaxSeeds)
	}
	used := map[int]bool{s.Device: true}
	for i, seed := range s.Seeds {
		if err := (manifest.Geometry{Size: seed.Size}).Validate(); err != nil {
			return fmt.Errorf("seed %d: %w", i, err)
		}
		switch {
		case seed.Device < 0 || seed.Device > maxDevice:
			return fmt.Errorf("seed %d: devices are numbered 0 to %d", i, maxDevice)
		case used[seed.Device]:
			return fmt.Errorf("seed %d: device %d is named twice", i, seed.Device)
		}
		used[seed.Device] = true
	}
	return nil
}

func (s *TaskSpec) validateTrusted(t Trusted) error {
	switch t {
	case TrustNone, TrustZero, TrustManifest:
		return nil
	case TrustKnown:
		if !s.Known {
			return errors.New("trusted is 'known', but no known digests are announced")
		}
		return nil
	default:
		return fmt.Errorf("unknown trusted %.20q: use zero, manifest, known or nothing", t)
	}
}

func (p *Peer) validate() error {
	if _, err := netproto.ParseFingerprint(string(p.Fingerprint)); err != nil {
		return fmt.Errorf("peer: %w", err)
	}
	if p.Address != "" {
		if _, err := netip.ParseAddrPort(p.Address); err != nil {
			return fmt.Errorf("peer's address %.80q: give ip:port (a delegate has no name service): %w", p.Address, err)
		}
	}
	if len(p.Token) < 16 || len(p.Token) > MaxToken {
		return fmt.Errorf("peer's token has %d bytes: it has 16 to %d", len(p.Token), MaxToken)
	}
	return nil
}

// Writes reports whether the task writes a disk.
func (s *TaskSpec) Writes() bool { return s.Kind == KindReceive || s.Kind == KindCopy }

// WritesDevice returns the number of the disk that is written, and whether there is one.
func (s *TaskSpec) WritesDevice() (number int, ok bool) {
	switch s.Kind {
	case KindReceive:
		return s.Device, true
	case KindCopy:
		return s.Target, true
	default:
		return 0, false
	}
}

// ReadsDevice returns the number of the disk that is only read, and whether there is one.
func (s *TaskSpec) ReadsDevice() (number int, ok bool) { return s.Device, s.Kind != KindReceive }

// SinkTrusted returns what is trusted of each sink, in order. A copy counts as one sink.
func (s *TaskSpec) SinkTrusted() []Trusted {
	if s.Kind == KindCopy {
		return []Trusted{s.Trusted}
	}
	trusted := make([]Trusted, len(s.Sinks))
	for i, sink := range s.Sinks {
		trusted[i] = sink.Trusted
	}
	return trusted
}

// TableBytes is the memory that the extent digests and the map announced by the specification take in the delegate.
func (s *TaskSpec) TableBytes() int64 {
	tables := int64(0)
	if s.Known {
		tables++
	}
	for _, t := range s.SinkTrusted() {
		if t == TrustManifest || t == TrustZero {
			tables++
		}
	}
	return tables*s.ExtentsBytes() + s.hintBytes()
}

// KnownExtents is how many digests come by PUT known: one for each extent, or for each of the sample.
func (s *TaskSpec) KnownExtents() uint32 { return s.Sample.Count(manifest.Geometry{Size: s.Size}) }

// ExtentsBytes is the length of the body of PUT known and PUT baseline: 32 bytes an extent.
func (s *TaskSpec) ExtentsBytes() int64 {
	return int64(s.KnownExtents()) * int64(len(manifest.Digest{}))
}
