package transfer_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/transfer"
)

// view is a manifest.View of a disk in memory.
type view struct {
	manifest.View
	size int64
	*known
}

func viewOf(p []byte) view                { return view{size: int64(len(p)), known: knownOf(p)} }
func (v view) Extents() []manifest.Digest { return v.extents }
func (v view) Header() manifest.Header {
	return manifest.Header{KeyID: key.ID(), Geometry: manifest.Geometry{Size: v.size}}
}
func (v view) BlockDigests(e uint32) ([]manifest.Digest, error) { return v.blocks[e], nil }

// TestSeeds: a second VM of the same template sends only its differences, be the
// first one's blocks at their places or elsewhere.
func TestSeeds(t *testing.T) {
	template := random(12*manifest.ExtentSize, 1)
	source := append(slices.Clone(template), random(manifest.ExtentSize, 2)...)
	copy(source[3*manifest.ExtentSize:], random(manifest.ExtentSize/2, 3))
	copy(source[7*manifest.ExtentSize:], template[9*manifest.ExtentSize:]) // elsewhere
	const differs = manifest.ExtentSize * 3 / 2
	for name, seed := range map[string]transfer.Seed{
		"to be read": {},
		"known":      {Digests: viewOf(template)},
		"stale":      {Digests: viewOf(random(len(template), 4))},
	} {
		for _, fresh := range []bool{false, true} {
			t.Run(name+map[bool]string{false: "/scan", true: "/zero"}[fresh], func(t *testing.T) {
				meter := blockio.NewMeter(memory(t, template))
				seed.Source, seed.Size = meter, int64(len(template))
				device := blockio.NewMemory(int64(len(source)))
				send := transfer.SendSpec{Source: memory(t, source), Size: device.Size(), Key: key}
				sink, receive := transfer.SinkSpec{}, transfer.ReceiveSpec{Target: device, Size: device.Size(), Key: key, Seeds: []transfer.Seed{seed}}
				if fresh {
					sink.Trusted, receive.Trusted = transfer.ZeroBaseline(key, device.Size()), true
				}
				a, b := pipe(t)
				o := run(t.Context(), a, b, send, sink, receive)
				if err := o.err(); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(device.Bytes(), source) {
					t.Error("the target differs")
				}
				want := int64(differs)
				if name == "stale" { // what moved cannot be found
					want += 3 * manifest.ExtentSize
				}
				if sent := o.send.Sinks[0].Counters.Sent; sent > want {
					t.Errorf("%d bytes were sent, %d differ", sent, want)
				}
				if read := meter.Counters().ReadBytes; read > 3*int64(len(template)) {
					t.Errorf("%d bytes were read of a seed of %d", read, len(template))
				}
			})
		}
	}
}

// TestSeedsRefused: seeds that cannot be what they are said to be.
func TestSeedsRefused(t *testing.T) {
	source := random(manifest.ExtentSize, 1)
	for name, seeds := range map[string][]transfer.Seed{
		"too small": {{Source: memory(t, source), Size: int64(len(source)) + 1}},
		"no size":   {{Source: memory(t, source)}},
		"other key": {{Source: memory(t, source), Size: int64(len(source)), Digests: viewOf(source[1:])}},
		"too many":  slices.Repeat([]transfer.Seed{{Source: memory(t, source), Size: 1}}, transfer.MaxSeeds+1),
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pipe(t)
			o := run(t.Context(), a, b, transfer.SendSpec{Source: memory(t, source), Size: int64(len(source)), Key: key}, transfer.SinkSpec{},
				transfer.ReceiveSpec{Target: blockio.NewMemory(int64(len(source))), Size: int64(len(source)), Key: key, Seeds: seeds})
			if o.recvErr == nil || o.sendErr == nil {
				t.Errorf("sender: %v, receiver: %v", o.sendErr, o.recvErr)
			}
		})
	}
}
