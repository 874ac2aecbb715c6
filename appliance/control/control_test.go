package control_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

var fingerprint = netproto.Fingerprint(strings.Repeat("ab", 32))

// valid returns a specification of each kind.
func valid(kind control.Kind) control.TaskSpec {
	peer := control.Peer{Fingerprint: fingerprint, Address: "192.0.2.1:7811", Token: bytes.Repeat([]byte{7}, 16)}
	s := control.TaskSpec{ID: "run-1.disk_0", Kind: kind, Device: 4, Size: 5 * manifest.ExtentSize, KeyID: manifest.KeyID{1}}
	if s.Writes() {
		s.Generation = manifest.Generation{1}
	}
	switch kind {
	case control.KindReceive:
		s.Peer = &peer
	case control.KindSend:
		s.Sinks = []control.Sink{{Peer: peer}}
	case control.KindCopy:
		s.Target = 5
	case control.KindVerify:
		s.Known, s.Sample = true, transfer.Sample{Every: 3, First: 2}
	}
	return s
}

var kinds = []control.Kind{control.KindScan, control.KindSend, control.KindReceive, control.KindCopy, control.KindVerify}

func TestValidate(t *testing.T) {
	for _, kind := range kinds {
		s := valid(kind)
		if err := s.Validate(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if got := (&control.Sink{}).Trusted; got != control.TrustNone {
		t.Errorf("the zero sink trusts %q", got)
	}
}

func TestValidateRefuses(t *testing.T) {
	type change = func(*control.TaskSpec)
	for name, test := range map[string]struct {
		kind   control.Kind
		change change
		want   string
	}{
		"kind":                     {"format", func(*control.TaskSpec) {}, "unknown kind"},
		"long id":                  {control.KindScan, func(s *control.TaskSpec) { s.ID = strings.Repeat("x", 65) }, "1 to 64"},
		"device":                   {control.KindScan, func(s *control.TaskSpec) { s.Device = 256 }, "0 to 255"},
		"no key":                   {control.KindScan, func(s *control.TaskSpec) { s.KeyID = manifest.KeyID{} }, "key_id"},
		"start beyond the end":     {control.KindScan, func(s *control.TaskSpec) { s.Start = 1 << 20 }, "start"},
		"resumed reader":           {control.KindScan, func(s *control.TaskSpec) { s.Resumed = true }, "resumed"},
		"long window":              {control.KindSend, func(s *control.TaskSpec) { s.ResumeSeconds = control.MaxResume + 1 }, "resume_seconds"},
		"window of a copy":         {control.KindCopy, func(s *control.TaskSpec) { s.ResumeSeconds = 1 }, "resume_seconds"},
		"deep queue":               {control.KindScan, func(s *control.TaskSpec) { s.Tuning.QueueDepth = 65 }, "queue_depth"},
		"many at once":             {control.KindScan, func(s *control.TaskSpec) { s.Tuning.Parallel = 5 }, "parallel"},
		"compression":              {control.KindScan, func(s *control.TaskSpec) { s.Tuning.Compression = "lzma" }, "compression"},
		"parts":                    {control.KindScan, func(s *control.TaskSpec) { s.Tuning.Parts = "halves" }, "parts"},
		"scan with target":         {control.KindScan, func(s *control.TaskSpec) { s.Target = 1 }, "target"},
		"scan with trust":          {control.KindScan, func(s *control.TaskSpec) { s.Trusted = control.TrustZero }, "trusted"},
		"receive unmarked":         {control.KindReceive, func(s *control.TaskSpec) { s.Generation = manifest.Generation{} }, "marked dirty"},
		"receive without peer":     {control.KindReceive, func(s *control.TaskSpec) { s.Peer = nil }, "one peer"},
		"receive with digests":     {control.KindReceive, func(s *control.TaskSpec) { s.Trusted = control.TrustManifest }, "peer or nothing"},
		"trusted receive reports":  {control.KindReceive, func(s *control.TaskSpec) { s.Trusted, s.Records = control.TrustPeer, true }, "sender"},
		"short token":              {control.KindReceive, func(s *control.TaskSpec) { s.Peer.Token = s.Peer.Token[:15] }, "15 bytes"},
		"long token":               {control.KindReceive, func(s *control.TaskSpec) { s.Peer.Token = bytes.Repeat([]byte{1}, 65) }, "65 bytes"},
		"fingerprint":              {control.KindReceive, func(s *control.TaskSpec) { s.Peer.Fingerprint = "00" }, "fingerprint"},
		"host name":                {control.KindReceive, func(s *control.TaskSpec) { s.Peer.Address = "delegate:7811" }, "ip:port"},
		"nine sinks":               {control.KindSend, func(s *control.TaskSpec) { s.Sinks = make([]control.Sink, 9) }, "1 to 8"},
		"one token twice":          {control.KindSend, func(s *control.TaskSpec) { s.Sinks = append(s.Sinks, s.Sinks[0]) }, "also another"},
		"send with task's records": {control.KindSend, func(s *control.TaskSpec) { s.Records = true }, "by sink"},
		"known not announced":      {control.KindSend, func(s *control.TaskSpec) { s.Sinks[0].Trusted = control.TrustKnown }, "announced"},
		"unknown trust":            {control.KindSend, func(s *control.TaskSpec) { s.Sinks[0].Trusted = "blindly" }, "blindly"},
		"send trusts peer":         {control.KindSend, func(s *control.TaskSpec) { s.Sinks[0].Trusted = control.TrustPeer }, "unknown trusted"},
		"scan of a sample":         {control.KindScan, func(s *control.TaskSpec) { s.Sample.Every = 2 }, "only a verify"},
		"verify without digests":   {control.KindVerify, func(s *control.TaskSpec) { s.Known = false }, "known digests"},
		"verify with records":      {control.KindVerify, func(s *control.TaskSpec) { s.Records = true }, "records"},
		"sample beyond":            {control.KindVerify, func(s *control.TaskSpec) { s.Sample.First = 3 }, "first below every"},
		"sample of one":            {control.KindVerify, func(s *control.TaskSpec) { s.Sample = transfer.Sample{First: 1} }, "first below every"},
		"large sample":             {control.KindVerify, func(s *control.TaskSpec) { s.Sample.Every = 1<<16 + 1 }, "at most"},
		"empty sample":             {control.KindVerify, func(s *control.TaskSpec) { s.Sample = transfer.Sample{Every: 9, First: 8} }, "no extent"},
		"hint of a kind":           {control.KindScan, func(s *control.TaskSpec) { s.Hint = &control.Hint{Kind: "guessed"} }, "allocated or changed"},
		"large hint": {control.KindScan, func(s *control.TaskSpec) {
			s.Hint = &control.Hint{Kind: control.HintAllocated, Map: make([]byte, control.MaxHint+1)}
		}, "at most"},
		"hint for a verify": {control.KindVerify, func(s *control.TaskSpec) { s.Hint = &control.Hint{Kind: control.HintAllocated} }, "spare"},
		"changes without trust": {control.KindSend, func(s *control.TaskSpec) {
			s.Hint = &control.Hint{Kind: control.HintChanged, Base: manifest.Generation{1}}
		}, "one manifest"},
		"changes of zeroes": {control.KindSend, func(s *control.TaskSpec) {
			s.Known, s.Sinks[0].Trusted, s.Hint = true, control.TrustZero, &control.Hint{Kind: control.HintChanged, Base: manifest.Generation{1}}
		}, "zeroes"},
		"changes since when": {control.KindSend, func(s *control.TaskSpec) {
			s.Known, s.Sinks[0].Trusted, s.Hint = true, control.TrustKnown, &control.Hint{Kind: control.HintChanged}
		}, "generation"},
		"copy onto itself":        {control.KindCopy, func(s *control.TaskSpec) { s.Target = s.Device }, "onto itself"},
		"send with seeds":         {control.KindSend, func(s *control.TaskSpec) { s.Seeds = []control.Seed{{Device: 9, Size: 1}} }, "only a receive"},
		"many seeds":              {control.KindReceive, func(s *control.TaskSpec) { s.Seeds = make([]control.Seed, 5) }, "at most 4"},
		"seed without size":       {control.KindReceive, func(s *control.TaskSpec) { s.Seeds = []control.Seed{{Device: 9}} }, "seed 0"},
		"seed that is the target": {control.KindReceive, func(s *control.TaskSpec) { s.Seeds = []control.Seed{{Device: s.Device, Size: 1}} }, "named twice"},
		"seed's device":           {control.KindReceive, func(s *control.TaskSpec) { s.Seeds = []control.Seed{{Device: 256, Size: 1}} }, "0 to 255"},
	} {
		t.Run(name, func(t *testing.T) {
			s := valid(test.kind)
			test.change(&s)
			if err := s.Validate(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want %q", err, test.want)
			}
		})
	}
}

func TestTableBytes(t *testing.T) {
	s := valid(control.KindSend)
	s.Known = true
	s.Sinks = []control.Sink{{Trusted: control.TrustKnown}, {Trusted: control.TrustManifest}, {Trusted: control.TrustZero}, {}}
	if got, want := s.TableBytes(), int64(3*5*32); got != want {
		t.Errorf("tables take %d bytes, want %d", got, want)
	}
}

func TestTableOfASample(t *testing.T) {
	s := valid(control.KindVerify) // extent 2 of 5
	if got := s.TableBytes(); got != 32 || s.ExtentsBytes() != 32 {
		t.Errorf("tables take %d bytes, the body has %d, want 32", got, s.ExtentsBytes())
	}
}

func TestSpecSurvivesJSON(t *testing.T) {
	for _, kind := range kinds {
		s := valid(kind)
		s.Tuning = control.Tuning{Parallel: 2, QueueDepth: 8, Compression: transfer.CompressionOff, Parts: transfer.PartsOn}
		encoded, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var got control.TaskSpec
		if err := json.Unmarshal(encoded, &got); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(got)
		if err != nil || !bytes.Equal(again, encoded) {
			t.Errorf("%s became %s, %v", encoded, again, err)
		}
	}
}

// Tokens and keys must not show, whatever a log line is made of.
func TestSecretsAreHidden(t *testing.T) {
	s := valid(control.KindReceive)
	token := fmt.Sprintf("%x", []byte(s.Peer.Token))
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	logger.Info("task", "spec", s, "peer", *s.Peer, "token", s.Peer.Token)
	shown := log.String() + fmt.Sprintf("%v %+v %#v %s", s, *s.Peer, s.Peer.Token, s.Peer.Token)
	for _, secret := range []string{token, "7 7 7", "0x7, 0x7"} {
		if strings.Contains(shown, secret) {
			t.Errorf("%q shows in %s", secret, shown)
		}
	}
	var decoded control.Token
	if err := decoded.UnmarshalText([]byte(token + "x")); err == nil || strings.Contains(err.Error(), token) {
		t.Errorf("the error shows the token: %v", err)
	}
}

func TestConfigurationHash(t *testing.T) {
	// printf 'address=127.0.0.1/8\nnonce=00ff\n' | sha256sum
	const want = "6cffd79cb48e2fcbc7aaa93aad0b7b5dead8f998e1b0c0f1384618901588738b"
	if got := control.ConfigurationHash(map[string]string{"nonce": "00ff", "address": "127.0.0.1/8"}); got != want {
		t.Errorf("hash is %s, want %s", got, want)
	}
}

func TestIdentity(t *testing.T) {
	want := control.Identity{Version: "1.2.3", Nonce: "00ff", Fingerprint: fingerprint, UniqueDomainID: "9b2e"}
	text := "1.2.3:00ff:" + string(fingerprint) + ":9b2e"
	if got := want.String(); got != text {
		t.Errorf("identity is %q, want %q", got, text)
	}
	if got, err := control.ParseIdentity(text); err != nil || got != want {
		t.Errorf("parsed %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "a:b:c:d", text + ":e", strings.TrimSuffix(text, "9b2e"), strings.ToUpper(text)} {
		if got, err := control.ParseIdentity(bad); err == nil {
			t.Errorf("%q was parsed as %+v", bad, got)
		}
	}
}

func FuzzIdentity(f *testing.F) {
	f.Add("1.2.3:00ff:" + string(fingerprint) + ":9b2e")
	f.Add(":::")
	f.Fuzz(func(t *testing.T, text string) {
		if identity, err := control.ParseIdentity(text); err == nil && identity.String() != text {
			t.Errorf("%q became %q", text, identity)
		}
	})
}

// Whatever a specification holds, checking it does not panic, and a good one has bounded tables and survives JSON.
func FuzzTaskSpec(f *testing.F) {
	for _, kind := range kinds {
		encoded, err := json.Marshal(valid(kind))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded)
	}
	f.Add([]byte(`{"size":-1,"sinks":[{}],"peer":{"token":"zz"}}`))
	f.Fuzz(func(t *testing.T, encoded []byte) {
		var s control.TaskSpec
		if json.Unmarshal(encoded, &s) != nil || s.Validate() != nil {
			return
		}
		if tables := s.TableBytes(); tables < 0 || tables > (control.MaxSinks+1)*manifest.MaxSize/manifest.ExtentSize*32 {
			t.Errorf("tables take %d bytes", tables)
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var second control.TaskSpec
		if err := json.Unmarshal(again, &second); err != nil {
			t.Errorf("%s: %v", again, err)
		}
	})
}

func FuzzRecords(f *testing.F) {
	body := manifest.AppendRecord(nil, manifest.Record{Extent: 3, Blocks: []manifest.Digest{{1}, {2}}})
	f.Add(body)
	f.Add(append(body, body...))
	f.Add(body[:len(body)-1])
	f.Fuzz(func(t *testing.T, body []byte) {
		records, err := control.DecodeRecords(body)
		if err != nil {
			return
		}
		var again []byte
		for _, r := range records {
			again = manifest.AppendRecord(again, r)
		}
		if !bytes.Equal(again, body) {
			t.Errorf("%d records encode to other bytes", len(records))
		}
	})
}
