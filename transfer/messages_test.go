package transfer

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/manifest"
)

var goldenBlock = regexp.MustCompile("(?ms)^```golden name=(\\S+)\n(.*?)^```$")

// golden returns the bytes that docs/protocol.md gives as examples.
func golden(t testing.TB) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := make(map[string][]byte)
	for _, m := range goldenBlock.FindAllSubmatch(text, -1) {
		p, err := hex.DecodeString(strings.Join(strings.Fields(string(m[2])), ""))
		if err != nil {
			t.Fatalf("golden %s: %v", m[1], err)
		}
		blocks[string(m[1])] = p
	}
	return blocks
}

var sixMiB = manifest.Geometry{Size: 6 << 20}

func filled[T ~[16]byte | ~[32]byte](b byte) (d T) {
	for i := range len(d) {
		d[i] = b
	}
	return d
}

// codecs are the examples of docs/protocol.md, and the decoder of each message.
var codecs = map[string]struct {
	encoded []byte
	decode  func(p []byte) (again []byte, err error)
}{
	"open": {
		open{mode: modeTrusted, start: 1, size: 6 << 20, key: manifest.KeyID{1, 2, 3, 4, 5, 6, 7, 8}, task: "t1"}.append(nil),
		func(p []byte) ([]byte, error) { m, err := decodeOpen(p); return m.append(nil), err },
	},
	"baseline": {
		baseline{5, []manifest.Digest{filled[manifest.Digest](0xaa)}}.append(nil),
		func(p []byte) ([]byte, error) { m, err := decodeBaseline(p); return m.append(nil), err },
	},
	"offer": {
		(&offer{
			extent: 1, parts: true, blocks: 1<<31 | 1<<2 | 1, zero: 1, copied: 1 << 2,
			digests: []shortDigest{filled[shortDigest](0xbb), filled[shortDigest](0xcc)}, sources: []position{7*partsPerBlock + 3},
			anchors: anchors{1 << 31, []anchor{0x0102030405}},
		}).append(nil),
		func(p []byte) ([]byte, error) {
			m, err := decodeOffer(p, sixMiB)
			if err != nil {
				return nil, err
			}
			return m.append(nil), nil
		},
	},
	"offer-look": {
		(&offer{extent: 1, look: true, blocks: 1<<32 - 1, zero: 1<<32 - 1}).append(nil),
		func(p []byte) ([]byte, error) {
			m, err := decodeOffer(p, sixMiB)
			if err != nil {
				return nil, err
			}
			return m.append(nil), nil
		},
	},
	"want": {
		(&want{
			extent: 1, blocks: 1 << 31, later: 1 << 2, parted: 1 << 31, parts: slices.Repeat([]partDigest{{0x99, 0x99}}, partsPerBlock),
		}).append(nil),
		func(p []byte) ([]byte, error) {
			m, err := decodeWant(p, sixMiB)
			if err != nil {
				return nil, err
			}
			return m.append(nil), nil
		},
	},
	"want-short": {
		(&want{extent: 1, blocks: 1 << 31}).append(nil),
		func(p []byte) ([]byte, error) {
			m, err := decodeWant(p, sixMiB)
			if err != nil {
				return nil, err
			}
			return m.append(nil), nil
		},
	},
	"data-header": {
		dataHeader{extent: 1, blocks: 1 << 31}.append(nil),
		func(p []byte) ([]byte, error) {
			m, _, err := decodeData(append(bytes.Clone(p), make([]byte, manifest.BlockSize)...), sixMiB)
			return m.append(nil), err
		},
	},
	"data-parts-header": {
		dataHeader{extent: 1, blocks: 1 << 31, parts: []uint16{1<<15 | 1}}.append(nil),
		func(p []byte) ([]byte, error) {
			m, _, err := decodeData(append(bytes.Clone(p), make([]byte, 2*partSize)...), sixMiB)
			return m.append(nil), err
		},
	},
	"number": {
		appendNumber(nil, 2),
		func(p []byte) ([]byte, error) {
			n, err := decodeNumber("ACK", p, sixMiB)
			return appendNumber(nil, n), err
		},
	},
	"end": {
		end{filled[manifest.Digest](0xee)}.append(nil),
		func(p []byte) ([]byte, error) { m, err := decodeEnd(p); return m.append(nil), err },
	},
	"result": {
		(&result{
			result: filled[manifest.Digest](0xdd), same: 5888 << 10, zero: 64 << 10, copied: 64 << 10, sent: 68 << 10, spared: 60 << 10,
			readBytes: 192 << 10, writtenBytes: 192 << 10, bytesTotal: 6 << 20,
		}).append(nil),
		func(p []byte) ([]byte, error) { m, err := decodeResult(p); return m.append(nil), err },
	},
}

// TestGolden holds the codecs and docs/protocol.md together.
func TestGolden(t *testing.T) {
	documented := golden(t)
	for name, c := range codecs {
		want, ok := documented[name]
		if !ok {
			t.Errorf("docs/protocol.md has no example %s", name)
		}
		if diff := cmp.Diff(hex.EncodeToString(want), hex.EncodeToString(c.encoded)); diff != "" {
			t.Errorf("%s (-documented +encoded):\n%s", name, diff)
		}
		again, err := c.decode(want)
		if err != nil || !bytes.Equal(again, want) {
			t.Errorf("%s decodes to %x, %v", name, again, err)
		}
		for n := range len(want) {
			// Of a WANT whole bitmaps may be left out.
			if again, err := c.decode(want[:n]); !errors.Is(err, ErrProtocol) && !bytes.Equal(again, want[:n]) {
				t.Errorf("%s cut to %d bytes: %v, want ErrProtocol", name, n, err)
			}
		}
		if _, err := c.decode(append(bytes.Clone(want), 0)); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s with a byte more: %v, want ErrProtocol", name, err)
		}
	}
}

// TestRefused: values that no sender may send.
func TestRefused(t *testing.T) {
	change := func(name string, at int, b byte) []byte {
		p := bytes.Clone(codecs[name].encoded)
		p[at] = b
		return p
	}
	for name, c := range map[string]struct {
		codec string
		p     []byte
	}{
		"unknown mode":            {"open", change("open", 0, 3)},
		"no task":                 {"open", change("open", 1, 0)[:24]},
		"reserved byte of OPEN":   {"open", change("open", 2, 1)},
		"starts beyond":           {"open", change("open", 7, 3)},
		"negative size":           {"open", change("open", 8, 0x80)},
		"size of zero":            {"open", change("open", 13, 0)},
		"extent beyond":           {"offer", change("offer", 3, 2)},
		"unknown flag":            {"offer", change("offer", 4, 8)},
		"anchor of what is zero":  {"offer", change("offer", 79, 0x01)},
		"no anchor":               {"offer", change("offer", 76, 0)[:80]},
		"reserved byte of OFFER":  {"offer", change("offer", 7, 1)},
		"block beyond":            {"offer", change("offer", 8, 0x80)},
		"zero not offered":        {"offer", change("offer", 22, 0x01)},
		"copied not offered":      {"offer", change("offer", 30, 0x01)},
		"copy from beyond":        {"offer", change("offer", 70, 6)},
		"wanted extent beyond":    {"want", change("want", 3, 2)},
		"wanted block beyond":     {"want", change("want", 4, 1)},
		"wanted now and later":    {"want", change("want", 16, 0x80)},
		"parts of what is not":    {"want", change("want", 24, 0xc0)},
		"fewer parts than blocks": {"want", change("want", 24, 0)},
		"bitmap of zeroes":        {"want-short", append(change("want-short", 4, 0), make([]byte, 8)...)},
		"half a bitmap":           {"want-short", append(change("want-short", 4, 0), 0, 0, 0, 1)},
		"parts flag":              {"data-parts-header", change("data-parts-header", 5, 2)},
		"fewer parts than bytes":  {"data-parts-header", change("data-parts-header", 16, 0)},
		"no part":                 {"data-parts-header", change("data-parts-header", 16, 0)[:17]},
		"unknown encoding":        {"data-header", change("data-header", 4, 2)},
		"reserved byte":           {"data-header", change("data-header", 7, 1)},
		"more blocks than bytes":  {"data-header", change("data-header", 15, 1)},
		"number beyond":           {"number", change("number", 3, 3)},
		"counters beyond":         {"result", change("result", 37, 0x5e)},
		"a counter of 2^63 bytes": {"result", change("result", 32, 0x80)},
	} {
		if _, err := codecs[c.codec].decode(c.p); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v, want ErrProtocol", name, err)
		}
	}
}

// fuzz feeds a decoder; what it takes must encode to the same bytes.
func fuzz(f *testing.F, name string) {
	f.Add(codecs[name].encoded)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		again, err := codecs[name].decode(p)
		if err == nil && !bytes.Equal(again, p) {
			t.Errorf("%x decodes and encodes to %x", p, again)
		}
		if err != nil && !errors.Is(err, ErrProtocol) {
			t.Errorf("%x: %v is no ErrProtocol", p, err)
		}
	})
}

func FuzzOpen(f *testing.F)     { fuzz(f, "open") }
func FuzzBaseline(f *testing.F) { fuzz(f, "baseline") }
func FuzzOffer(f *testing.F)    { fuzz(f, "offer") }
func FuzzWant(f *testing.F)     { fuzz(f, "want") }
func FuzzNumber(f *testing.F)   { fuzz(f, "number") }
func FuzzEnd(f *testing.F)      { fuzz(f, "end") }
func FuzzResult(f *testing.F)   { fuzz(f, "result") }

// FuzzData feeds the header and the unpacker behind it.
func FuzzData(f *testing.F) {
	k := packer{pace: newPace(Tuning{Compression: CompressionOn}, 1, 0, 0), progress: new(Progress)}
	var text content
	text.lend(bytes.Repeat([]byte("understudy "), manifest.BlockSize/11+1)[:manifest.BlockSize])
	_, packed, err := k.pack(context.Background(), &text)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(dataHeader{extent: 1, blocks: 1, encoding: encodingZstd}.append(nil), packed[0]...))
	f.Add(append(dataHeader{extent: 1, blocks: 1}.append(nil), make([]byte, manifest.BlockSize)...))
	var u unpacker
	f.Cleanup(u.close)
	f.Fuzz(func(t *testing.T, p []byte) {
		m, content, err := decodeData(p, sixMiB)
		if err == nil {
			length := m.length(sixMiB)
			if m.encoding != encodingRaw {
				content, err = u.unpack(content, length, new(Progress))
			}
			if err == nil && len(content) != length {
				t.Errorf("%d bytes for blocks of %d", len(content), length)
			}
		}
		if err != nil && !errors.Is(err, ErrProtocol) {
			t.Errorf("%v is no ErrProtocol", err)
		}
	})
}
