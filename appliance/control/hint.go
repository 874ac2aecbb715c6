package control

import (
	"errors"
	"fmt"
	"slices"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/transfer"
)

// HintKind says what a Hint's map marks.
type HintKind string

// The kinds of hints.
const (
	// HintAllocated marks what may hold data; the rest reads as zeroes.
	HintAllocated HintKind = "allocated"
	// HintChanged marks what may differ from a manifest: that by which the one sink is trusted or, of a sink that is not, the one of
	// PUT known. Of an extent that the manifest does not know all must be marked.
	HintChanged HintKind = "changed"
)

// MaxHint bounds an encoded map in bytes: some 170,000 ranges. Whoever has more marks more of the disk, or does without.
const MaxHint = 512 << 10

// Hint limits what a task reads of its source, of an untrusted receive what is read of its target; see transfer.Hint.
type Hint struct {
	Kind HintKind `json:"kind"`
	// Base is, of HintChanged, the generation of the snapshot since which changes were tracked: that of the manifest.
	Base manifest.Generation `json:"base,omitzero"`
	// Map is a blockio.AllocationMap of the logical size, encoded by its Append.
	Map []byte `json:"map"`
	// Slice is the extent at which the rolling slice starts: HintStatus.Slice of the last run.
	Slice uint32 `json:"slice,omitempty"`
}

// HintStatus tells what became of a hint.
type HintStatus struct {
	Slice    uint32 `json:"slice"`
	Disabled string `json:"disabled,omitempty"` // why everything was read
}

func (s *TaskSpec) validateHint() error {
	h := s.Hint
	if h == nil {
		return nil
	}
	if len(h.Map) > MaxHint {
		return fmt.Errorf("hint: its map has %d bytes, at most %d are taken: mark whole extents, or leave it out", len(h.Map), MaxHint)
	}
	switch h.Kind {
	case HintAllocated:
		switch {
		case !h.Base.IsZero():
			return errors.New("hint: what is allocated has no base")
		case s.Kind == KindVerify || s.Kind == KindReceive && s.Trusted != TrustNone:
			return fmt.Errorf("hint: a %s has nothing that it would spare", s.Kind)
		}
		return nil
	case HintChanged:
		trusted := s.SinkTrusted()
		switch {
		case h.Base.IsZero():
			return errors.New("hint: what changed since when: name the generation of the manifest")
		case len(trusted) != 1 || trusted[0] != TrustManifest && !s.Known:
			return errors.New("hint: what changed is true of one manifest: that by which the one sink is trusted, or the known digests")
		case trusted[0] == TrustZero:
			return errors.New("hint: a sink of zeroes is no snapshot's copy")
		}
		return nil
	default:
		return fmt.Errorf("unknown hint %.20q: use allocated or changed", h.Kind)
	}
}

// HintsByKnown reports whether the known digests are what a hint is about and, the sink being scanned, nothing else needs.
func (s *TaskSpec) HintsByKnown() bool {
	return s.Hint != nil && s.Hint.Kind == HintChanged && s.Known && !slices.Contains(s.SinkTrusted(), TrustManifest)
}

// hintBytes is the memory that the hint's map takes in the delegate, decoded.
func (s *TaskSpec) hintBytes() int64 {
	if s.Hint == nil {
		return 0
	}
	return s.Size / blockio.AllocationUnit / 8
}

// Decode makes a hint of it, for a disk of so many bytes. base is the manifest, of HintChanged.
func (h *Hint) Decode(size int64, base transfer.Baseline) (*transfer.Hint, error) {
	marked, err := blockio.ParseAllocationMap(h.Map, size)
	if err != nil {
		return nil, fmt.Errorf("hint: %w", err)
	}
	if h.Kind == HintChanged {
		return &transfer.Hint{Changed: marked, Base: base, Slice: h.Slice}, nil
	}
	return &transfer.Hint{Allocated: marked, Slice: h.Slice}, nil
}
