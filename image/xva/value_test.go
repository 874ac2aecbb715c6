package xva

import (
	"bytes"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestXXH64(t *testing.T) {
	for text, want := range map[string]uint64{
		"": 0xef46db3751d8e999, "a": 0xd24ec4f1a98c6e5b, "abc": 0x44bc2cf5ad770999,
		"Nobody inspects the spammish repetition": 0xfbcea83c8a378bf1,
	} {
		if got := xxh64([]byte(text)); got != want {
			t.Errorf("XXH64 of %q: %016x, want %016x", text, got, want)
		}
	}
}

// values draws what encodeValue takes and decodeValue gives back unchanged: integers come back as text.
func values(depth int) *rapid.Generator[any] {
	text := rapid.StringOf(rapid.RuneFrom([]rune("ab<>&\"' \t\n\ré漢]")))
	leaves := []*rapid.Generator[any]{
		text.AsAny(), rapid.Bool().AsAny(), rapid.Just(DateTime("20261122T09:51:52Z")).AsAny(),
		rapid.Float64().Filter(func(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }).AsAny(),
	}
	if depth == 0 {
		return rapid.OneOf(leaves...)
	}
	inner := values(depth - 1)
	return rapid.OneOf(append(leaves, rapid.SliceOfN(inner, 0, 4).AsAny(), rapid.MapOfN(text, inner, 0, 4).AsAny())...)
}

func TestValueRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := values(3).Draw(t, "value")
		var out bytes.Buffer
		if err := encodeValue(&out, v); err != nil {
			t.Fatal(err)
		}
		got, err := decodeValue(out.Bytes())
		if err != nil {
			t.Fatalf("%v in %s", err, out.Bytes())
		}
		if diff := cmp.Diff(v, got); diff != "" {
			t.Fatalf("%s of %s", diff, out.Bytes())
		}
	})
}

func TestZero(t *testing.T) {
	for _, size := range []int{0, 1, 7, 4096} {
		b := make([]byte, size)
		if !zero(b) {
			t.Errorf("%d zeroes are not", size)
		}
		for _, at := range []int{0, size / 2, size - 1} {
			if size > 0 {
				b[at] = 1
				if zero(b) {
					t.Errorf("%d bytes with a one at %d are", size, at)
				}
				b[at] = 0
			}
		}
	}
}

// FuzzValue: whatever is read can be written, and is then read as the same value.
func FuzzValue(f *testing.F) {
	for _, seed := range []string{
		"<value>text</value>", "<value/>", "<value><int>-1</int></value>", "<value><double>1.5</double></value>",
		"<value><struct><member><name>a</name><value><array><data><value><boolean>1</boolean></value></data></array></value></member></struct></value>",
		"<value><dateTime.iso8601>19700101T00:00:00Z</dateTime.iso8601></value>", "<value>&lt;&#10;</value>", "<!DOCTYPE a><value/>",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := decodeValue(text)
		if err != nil {
			return
		}
		var first, second bytes.Buffer
		if err := encodeValue(&first, v); err != nil {
			t.Fatalf("%#v: %v", v, err)
		}
		again, err := decodeValue(first.Bytes())
		if err != nil {
			t.Fatalf("%s: %v", first.Bytes(), err)
		}
		if err := encodeValue(&second, again); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Fatalf("%s, then %s", first.Bytes(), second.Bytes())
		}
	})
}
