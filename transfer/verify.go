package transfer

import (
	"context"
	"fmt"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
)

// Sample is a part of a disk's extents: those with number First, First + Every and
// so on. All of them with Every 0 or 1. With First from 0 to Every - 1 in turn it
// covers the whole disk.
type Sample struct {
	Every uint32 `json:"every"`
	First uint32 `json:"first"`
}

// holds reports whether an extent is part of the sample.
func (s Sample) holds(extent uint32) bool { return s.Every < 2 || extent%s.Every == s.First }

// Count is the number of extents that the sample has of a disk.
func (s Sample) Count(g manifest.Geometry) uint32 {
	switch n := g.Extents(); {
	case s.Every < 2:
		return n
	case s.First >= n:
		return 0
	default:
		return (n-1-s.First)/s.Every + 1
	}
}

// Of picks the sample's extents from those of a whole disk.
func (s Sample) Of(extents []manifest.Digest) []manifest.Digest {
	if s.Every < 2 {
		return extents
	}
	picked := []manifest.Digest{}
	for i := int(s.First); i < len(extents); i += int(s.Every) {
		picked = append(picked, extents[i])
	}
	return picked
}

// VerifySpec says what is to be read back.
type VerifySpec struct {
	Source Source
	Size   int64 // logical size
	Key    manifest.Key
	Sample Sample
	Want   []manifest.Digest // of the sample's extents, in order
	Tuning
	Progress *Progress // optional
}

// VerifyResult is what came of it.
type VerifyResult struct {
	Bytes     int64    `json:"bytes"`               // compared
	Count     int      `json:"count"`               // of extents that are not as they should be
	Differing []uint32 `json:"differing,omitempty"` // the first MaxDiffering of them, ascending
}

// MaxDiffering bounds how many extents a VerifyResult names.
const MaxDiffering = 256

// Verify reads a disk, or a sample of it, and compares it with what it should hold.
// What differs is a result, not an error.
func Verify(ctx context.Context, spec VerifySpec) (result VerifyResult, err error) {
	g := manifest.Geometry{Size: spec.Size}
	if err := g.Validate(); err != nil {
		return result, err
	}
	if want := spec.Sample.Count(g); len(spec.Want) != int(want) {
		return result, fmt.Errorf("%w: %d digests for a sample of %d extents", ErrTask, len(spec.Want), want)
	}
	p := orNew(spec.Progress)
	p.begin(g, 0)
	defer p.end()
	next := 0
	err = scanExtents(ctx, spec.Source, g, 0, spec.Key, spec.Tuning, p, sampled(spec.Sample, g), false, func(e *extent) error {
		defer e.release()
		if e.digest != spec.Want[next] {
			result.Count++
			if len(result.Differing) < MaxDiffering {
				result.Differing = append(result.Differing, e.number)
			}
		}
		next++
		_, length := g.ExtentRange(e.number)
		result.Bytes += int64(length)
		p.processed.Add(int64(length))
		return nil
	})
	return result, err
}

// sampled leaves out all but the extents of a sample.
func sampled(s Sample, g manifest.Geometry) *assumptions {
	a := &assumptions{geometry: g}
	if s.Every < 2 {
		return a
	}
	a.sample, a.only = &s, blockio.NewAllocationMap(g.Size)
	for number := int64(s.First); number < int64(g.Extents()); number += int64(s.Every) {
		a.only.Mark(number*manifest.ExtentSize, manifest.ExtentSize)
	}
	return a
}

// skips reports whether an extent is left out altogether.
func (a *assumptions) skips(number uint32) bool { return a.sample != nil && !a.sample.holds(number) }
