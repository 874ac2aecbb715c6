package manifest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
)

// Generation names the content that one run of a VM left behind. It is random and never a counter, so that a restored database
// or a copied disk cannot repeat one. The zero Generation names nothing.
type Generation [16]byte

// NewGeneration draws a random Generation. It does not fail: crypto/rand ends the process when the system has no randomness.
func NewGeneration() (g Generation) {
	for g.IsZero() {
		_, _ = rand.Read(g[:])
	}
	return g
}

// ParseGeneration is the inverse of Generation.String. The zero Generation is refused.
func ParseGeneration(s string) (g Generation, err error) {
	if err := parseHex(g[:], "generation", s); err != nil {
		return Generation{}, err
	}
	if g.IsZero() {
		return Generation{}, fmt.Errorf("generation %q: %w: all zeroes name nothing", s, ErrInvalid)
	}
	return g, nil
}

// IsZero reports whether g names nothing.
func (g Generation) IsZero() bool { return g == Generation{} }

// String returns the generation in lower-case hexadecimal.
func (g Generation) String() string { return hex.EncodeToString(g[:]) }

// MarshalText is String, and an ErrInvalid for the zero Generation: JSON fields that may lack one are tagged omitzero.
func (g Generation) MarshalText() ([]byte, error) {
	if g.IsZero() {
		return nil, fmt.Errorf("generation: %w: all zeroes name nothing", ErrInvalid)
	}
	return []byte(g.String()), nil
}

// UnmarshalText is ParseGeneration.
func (g *Generation) UnmarshalText(text []byte) (err error) {
	*g, err = ParseGeneration(string(text))
	return err
}

const (
	clean = "clean"
	dirty = "dirty"
)

// State says whether a cached manifest describes a disk. It is kept twice, in the state database and in the markers of the
// replica, and made durable in both: dirty before the first write of a run, clean after its commit. The zero State is invalid.
type State struct {
	Dirty      bool       // a run has begun to write
	Generation Generation // of that run when dirty, else of the last committed one
}

// Valid reports whether the State names a generation.
func (s State) Valid() bool { return !s.Generation.IsZero() }

// String returns "clean:GENERATION" or "dirty:GENERATION"; for an invalid State "invalid", which ParseState refuses.
func (s State) String() string {
	switch {
	case !s.Valid():
		return "invalid"
	case s.Dirty:
		return dirty + ":" + s.Generation.String()
	default:
		return clean + ":" + s.Generation.String()
	}
}

// ParseState is the inverse of State.String and accepts no other spelling.
func ParseState(s string) (State, error) {
	word, generation, found := strings.Cut(s, ":")
	if !found || word != clean && word != dirty {
		return State{}, fmt.Errorf("state %.80q: %w: it is %s:GENERATION or %s:GENERATION", s, ErrInvalid, clean, dirty)
	}
	g, err := ParseGeneration(generation)
	if err != nil {
		return State{}, fmt.Errorf("state %.80q: %w", s, err)
	}
	return State{Dirty: word == dirty, Generation: g}, nil
}

// MarshalText is String, and an ErrInvalid for an invalid State: JSON fields that may lack one are tagged omitzero.
func (s State) MarshalText() ([]byte, error) {
	if !s.Valid() {
		return nil, fmt.Errorf("state: %w: it names no generation", ErrInvalid)
	}
	return []byte(s.String()), nil
}

// UnmarshalText is ParseState.
func (s *State) UnmarshalText(text []byte) (err error) {
	*s, err = ParseState(string(text))
	return err
}

// Trusted reports whether the two places where a State is kept agree that the manifest describes the disk: both clean, with
// the same generation.
func Trusted(a, b State) bool {
	return a.Valid() && !a.Dirty && !b.Dirty && a.Generation == b.Generation
}
