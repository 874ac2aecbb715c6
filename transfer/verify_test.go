package transfer_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/transfer"
)

// TestVerifySamples: samples in turn read the whole disk once, and each finds what differs in its part and nothing else.
func TestVerifySamples(t *testing.T) {
	disk := random(10*manifest.ExtentSize+manifest.BlockSize+9, 1)
	_, extents, _ := manifestOf(disk)
	wrong := []uint32{2, 3, 10}
	for _, e := range wrong {
		disk[int(e)*manifest.ExtentSize+100] ^= 1
	}
	for _, every := range []uint32{0, 1, 4, 32} {
		meter := blockio.NewMeter(memory(t, disk))
		var found []uint32
		total := int64(0)
		for first := range max(every, 1) {
			s := transfer.Sample{Every: every, First: first}
			before := meter.Counters().ReadBytes
			got, err := transfer.Verify(t.Context(), transfer.VerifySpec{Source: meter, Size: int64(len(disk)), Key: key, Sample: s, Want: s.Of(extents)})
			if err != nil {
				t.Fatal(err)
			}
			if read := meter.Counters().ReadBytes - before; got.Bytes != read || got.Count != len(got.Differing) {
				t.Errorf("sample %+v: %d bytes were read: %+v", s, read, got)
			}
			found = append(found, got.Differing...)
			total += got.Bytes
		}
		slices.Sort(found)
		if !slices.Equal(found, wrong) || total != int64(len(disk)) {
			t.Errorf("1/%d: extents %v differ, want %v; %d of %d bytes were read", every, found, wrong, total, len(disk))
		}
	}
	s := transfer.Sample{Every: 2}
	if _, err := transfer.Verify(t.Context(), transfer.VerifySpec{Source: memory(t, disk), Size: int64(len(disk)), Key: key, Sample: s, Want: extents}); !errors.Is(err, transfer.ErrTask) {
		t.Errorf("digests of the whole disk for half of it: %v", err)
	}
}
