package manifest_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/manifest"
)

func TestStateText(t *testing.T) {
	g := manifest.NewGeneration()
	for _, s := range []manifest.State{{Generation: g}, {Dirty: true, Generation: g}} {
		again, err := manifest.ParseState(s.String())
		must(t, err)
		if again != s {
			t.Errorf("%s came back as %s", s, again)
		}
		p, err := json.Marshal(s)
		must(t, err)
		var decoded manifest.State
		must(t, json.Unmarshal(p, &decoded))
		if decoded != s {
			t.Errorf("%s came back from JSON as %s", s, decoded)
		}
	}
	if got := (manifest.State{Dirty: true, Generation: g}).String(); got != "dirty:"+g.String() {
		t.Errorf("a dirty state reads %s", got)
	}
	if got := (manifest.State{Generation: g}).String(); got != "clean:"+g.String() {
		t.Errorf("a clean state reads %s", got)
	}
}

func TestStateIsParsedStrictly(t *testing.T) {
	hex := strings.Repeat("a1", 16)
	for _, s := range []string{
		"", "clean", "clean:", ":" + hex, hex, "Clean:" + hex, "clean :" + hex, "clean: " + hex, " clean:" + hex, "clean:" + hex + "\n",
		"clean:" + strings.ToUpper(hex), "clean:" + hex[1:], "clean:" + hex + "00", "clean:" + strings.Repeat("0", 32), "clean:" + hex[:31] + "g",
		"dirtyclean:" + hex, "invalid", "clean:clean:" + hex, manifest.State{}.String(), "dirty:" + strings.Repeat("é", 16),
	} {
		_, err := manifest.ParseState(s)
		wantError(t, err, manifest.ErrInvalid)
	}
	_, err := json.Marshal(manifest.State{})
	wantError(t, err, manifest.ErrInvalid)
	_, err = json.Marshal(manifest.Generation{})
	wantError(t, err, manifest.ErrInvalid)
}

func TestTrusted(t *testing.T) {
	g, other := manifest.NewGeneration(), manifest.NewGeneration()
	clean, dirty := manifest.State{Generation: g}, manifest.State{Dirty: true, Generation: g}
	for _, c := range []struct {
		a, b manifest.State
		want bool
	}{
		{clean, clean, true},
		{clean, dirty, false},
		{dirty, clean, false},
		{dirty, dirty, false},
		{clean, manifest.State{Generation: other}, false},
		{clean, manifest.State{}, false},
		{manifest.State{}, manifest.State{}, false},
	} {
		if got := manifest.Trusted(c.a, c.b); got != c.want {
			t.Errorf("Trusted(%s, %s) is %v", c.a, c.b, got)
		}
	}
}

func TestDigestAndGenerationText(t *testing.T) {
	d, g := digestOf(1), manifest.NewGeneration()
	in := struct {
		Digest     manifest.Digest
		Generation manifest.Generation
		KeyID      manifest.KeyID
	}{d, g, testKey(0).ID()}
	p, err := json.Marshal(in)
	must(t, err)
	out := in
	out.Digest, out.Generation, out.KeyID = manifest.Digest{}, manifest.Generation{}, manifest.KeyID{}
	must(t, json.Unmarshal(p, &out))
	if out != in {
		t.Errorf("%s came back as %+v", p, out)
	}
	_, err = manifest.ParseDigest(g.String())
	wantError(t, err, manifest.ErrInvalid)
	_, err = manifest.ParseGeneration(d.String())
	wantError(t, err, manifest.ErrInvalid)
	if again := manifest.NewGeneration(); again == g {
		t.Error("a generation was drawn twice")
	}
}
