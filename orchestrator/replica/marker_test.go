package replica_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	installation = "11111111-1111-4111-8111-111111111111"
	elsewhere    = "22222222-2222-4222-8222-222222222222"
	runID        = "33333333-3333-4333-8333-333333333333"
	oldRun       = "44444444-4444-4444-8444-444444444444"
	vmUUID       = "55555555-5555-4555-8555-555555555555"
	otherUUID    = "66666666-6666-4666-8666-666666666666"
)

var generation = manifest.Generation{1, 2, 3}

func marker() replica.Marker {
	return replica.Marker{
		Installation: installation, Run: runID, Kind: replica.KindReplica, Self: vmUUID,
		State: manifest.State{Generation: generation}, Source: otherUUID, Disk: "3",
	}
}

// object is a xapi.API with one object. Calls after the first lives-many fail, as after a crash; interfere is another client
// that gets in before each call.
type object struct {
	xapi.API
	otherConfig map[string]string
	lives       int // negative: for ever
	changes     []string
	interfere   func(method string, otherConfig map[string]string)
}

var errDied = errors.New("the process died")

func (o *object) Call(_ context.Context, method string, result any, args ...any) error {
	if o.lives == 0 {
		return errDied
	}
	o.lives--
	if o.interfere != nil {
		o.interfere(method, o.otherConfig)
	}
	switch method {
	case "VM.get_other_config":
		*result.(*map[string]string) = maps.Clone(o.otherConfig)
	case "VM.remove_from_other_config":
		delete(o.otherConfig, args[1].(string))
		o.changes = append(o.changes, "-"+args[1].(string))
	case "VM.add_to_other_config":
		key := args[1].(string)
		if _, there := o.otherConfig[key]; there {
			return &xapi.Error{Code: "MAP_DUPLICATE_KEY", Method: method}
		}
		o.otherConfig[key] = args[2].(string)
		o.changes = append(o.changes, "+"+key)
	default:
		return &xapi.Error{Code: "MESSAGE_METHOD_UNKNOWN", Method: method}
	}
	return nil
}

func (o *object) Run(context.Context, string, *string, ...any) error { return errDied }

func (o *object) Events(context.Context, []string, string, time.Duration) (xapi.EventBatch, error) {
	return xapi.EventBatch{}, errDied
}

// marked returns the other_config that Apply leaves on an object with this one.
func marked(t *testing.T, otherConfig map[string]string, m replica.Marker) map[string]string {
	t.Helper()
	o := &object{otherConfig: maps.Clone(otherConfig), lives: -1}
	if o.otherConfig == nil {
		o.otherConfig = map[string]string{}
	}
	if err := replica.Apply(t.Context(), o, "VM", "OpaqueRef:1", m); err != nil {
		t.Fatal(err)
	}
	return o.otherConfig
}

func TestMarkerKeys(t *testing.T) {
	want := map[string]string{
		"understudy:installation": installation,
		"understudy:run":          runID,
		"understudy:kind":         "replica",
		"understudy:self":         vmUUID,
		"understudy:state":        "clean:01020300000000000000000000000000",
		"understudy:source":       otherUUID,
		"understudy:disk":         "3",
		"mac_seed":                "theirs",
	}
	got := marked(t, map[string]string{"mac_seed": "theirs"}, marker())
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("other_config (-want +got):\n%s", diff)
	}
	m, ownership, err := replica.Read(installation, vmUUID, got)
	if diff := cmp.Diff(marker(), m); diff != "" || ownership != replica.Ours || err != nil {
		t.Errorf("read as %s, %v (-want +got):\n%s", ownership, err, diff)
	}
	created := marker().OtherConfig()
	if _, ok := created["understudy:self"]; ok || created["understudy:run"] != runID {
		t.Errorf("other_config of a creating call: %v", created)
	}
	if _, ownership, _ := replica.Read(installation, vmUUID, created); ownership != replica.Malformed {
		t.Errorf("an object that was just created is %s", ownership)
	}
}

func TestOwnership(t *testing.T) {
	whole := marked(t, nil, marker())
	with := func(key, value string) map[string]string {
		changed := maps.Clone(whole)
		changed["understudy:"+key] = value
		if value == "" {
			delete(changed, "understudy:"+key)
		}
		return changed
	}
	for name, c := range map[string]struct {
		otherConfig map[string]string
		uuid        string
		want        replica.Ownership
	}{
		"ours":                   {whole, vmUUID, replica.Ours},
		"ours, no state":         {with("state", ""), vmUUID, replica.Ours},
		"ours, no run":           {with("run", ""), vmUUID, replica.Ours},
		"a copy":                 {whole, otherUUID, replica.Stranger},
		"a copy, otherwise odd":  {with("kind", "x"), otherUUID, replica.Stranger},
		"another installation":   {with("installation", elsewhere), vmUUID, replica.Stranger},
		"nothing":                {nil, vmUUID, replica.None},
		"others' keys":           {map[string]string{"xo:backup:vm": vmUUID}, vmUUID, replica.None},
		"no self":                {with("self", ""), vmUUID, replica.Malformed},
		"no installation":        {with("installation", ""), vmUUID, replica.Malformed},
		"installation is no id":  {with("installation", "x"), vmUUID, replica.Stranger},
		"no kind":                {with("kind", ""), vmUUID, replica.Malformed},
		"unknown kind":           {with("kind", "pet"), vmUUID, replica.Malformed},
		"odd state":              {with("state", "clean"), vmUUID, replica.Malformed},
		"state without content":  {with("state", "clean:"+strings.Repeat("0", 32)), vmUUID, replica.Malformed},
		"a key of a later time":  {map[string]string{"understudy:a-later-one": "x"}, vmUUID, replica.Malformed},
		"ours and a later key":   {with("a-later-one", "x"), vmUUID, replica.Ours},
		"a lease alone":          {map[string]string{"understudy:lease.1": "x"}, vmUUID, replica.None},
		"dirty":                  {with("state", "dirty:"+generation.String()), vmUUID, replica.Ours},
		"an upper-case spelling": {with("state", "Clean:"+generation.String()), vmUUID, replica.Malformed},
	} {
		_, got, err := replica.Read(installation, c.uuid, c.otherConfig)
		if got != c.want || (err != nil) != (c.want == replica.Malformed) {
			t.Errorf("%s: %s, %v, want %s", name, got, err, c.want)
		}
	}
}

func TestApplyCutShort(t *testing.T) {
	original := marker()
	original.Self, original.Run, original.Kind, original.Source, original.Disk = otherUUID, oldRun, replica.KindRestorePoint, vmUUID, "9"
	older := marker()
	older.Run, older.State = oldRun, manifest.State{Generation: manifest.Generation{9}}
	for name, c := range map[string]struct {
		before    map[string]string
		staysOurs bool
	}{
		"a copy":          {marked(t, nil, original), false},
		"a new object":    {map[string]string{"x": "y"}, false},
		"the last commit": {marked(t, nil, older), true},
	} {
		for lives := 0; ; lives++ {
			o := &object{otherConfig: maps.Clone(c.before), lives: lives}
			err := replica.Apply(t.Context(), o, "VM", "OpaqueRef:1", marker())
			m, ownership, _ := replica.Read(installation, vmUUID, o.otherConfig)
			if err == nil {
				if diff := cmp.Diff(marker(), m); diff != "" || ownership != replica.Ours {
					t.Errorf("%s: in the end it is %s (-want +got):\n%s", name, ownership, diff)
				}
				again := &object{otherConfig: o.otherConfig, lives: -1}
				if err := replica.Apply(t.Context(), again, "VM", "OpaqueRef:1", marker()); err != nil || len(again.changes) > 0 {
					t.Errorf("%s: a second Apply: %v, changes %v", name, err, again.changes)
				}
				break
			}
			if !errors.Is(err, errDied) {
				t.Fatal(err)
			}
			if c.staysOurs && ownership != replica.Ours {
				t.Errorf("%s, dead after %d calls: ours became %s", name, lives, ownership)
			}
			whole := marker()
			whole.State = m.State
			if ownership == replica.Ours && !c.staysOurs && m != whole {
				t.Errorf("%s, dead after %d calls: ours with keys of its original: %+v", name, lives, m)
			}
			if ownership == replica.Ours && len(o.changes) > 0 && m.State.Valid() && m.State != marker().State {
				t.Errorf("%s, dead after %d calls: ours with the state %s", name, lives, m.State)
			}
		}
	}
}

func TestApplyAgainstAnotherClient(t *testing.T) {
	getsIn := 3
	o := &object{otherConfig: map[string]string{}, lives: -1, interfere: func(method string, otherConfig map[string]string) {
		if method == "VM.add_to_other_config" && getsIn > 0 {
			getsIn--
			otherConfig["understudy:installation"] = elsewhere
		}
	}}
	if err := replica.Apply(t.Context(), o, "VM", "OpaqueRef:1", marker()); err != nil {
		t.Fatal(err)
	}
	if _, ownership, err := replica.Read(installation, vmUUID, o.otherConfig); ownership != replica.Ours {
		t.Errorf("it is %s, %v", ownership, err)
	}
}

func TestApplyRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*replica.Marker){
		"no self":         func(m *replica.Marker) { m.Self = "" },
		"no installation": func(m *replica.Marker) { m.Installation = "" },
		"no kind":         func(m *replica.Marker) { m.Kind = "" },
	} {
		m := marker()
		spoil(&m)
		o := &object{otherConfig: map[string]string{}, lives: -1}
		if err := replica.Apply(t.Context(), o, "VM", "OpaqueRef:1", m); err == nil || len(o.changes) > 0 {
			t.Errorf("%s: %v after %v", name, err, o.changes)
		}
	}
}

func TestSetState(t *testing.T) {
	o := &object{otherConfig: marked(t, nil, marker()), lives: -1}
	dirty := manifest.State{Dirty: true, Generation: manifest.Generation{7}}
	if err := replica.SetState(t.Context(), o, "VM", "OpaqueRef:1", dirty); err != nil {
		t.Fatal(err)
	}
	m, _, err := replica.Read(installation, vmUUID, o.otherConfig)
	if err != nil || m.State != dirty {
		t.Errorf("state %s, %v", m.State, err)
	}
	if !slices.Equal(o.changes, []string{"-understudy:state", "+understudy:state"}) {
		t.Errorf("changes %v", o.changes)
	}
	if err := replica.SetState(t.Context(), o, "VM", "OpaqueRef:1", manifest.State{}); err == nil {
		t.Error("a state without generation was written")
	}
}

// Whatever stands in other_config, reading it ends in one of the four answers, and Ours only for the object named.
func FuzzRead(f *testing.F) {
	f.Add(installation, vmUUID, "replica", "clean:"+generation.String(), vmUUID)
	f.Add("", "", "", "", vmUUID)
	f.Add(elsewhere, otherUUID, "clone", "dirty:", vmUUID)
	f.Fuzz(func(t *testing.T, inst, self, kind, state, object string) {
		m, ownership, err := replica.Read(installation, object, map[string]string{
			"understudy:installation": inst, "understudy:self": self, "understudy:kind": kind, "understudy:state": state,
		})
		if (err != nil) != (ownership == replica.Malformed) {
			t.Errorf("%s with error %v", ownership, err)
		}
		if ownership == replica.Ours && (m.Self != object || m.Installation != installation || !m.Kind.Valid() || state != m.State.String()) {
			t.Errorf("ours: %+v of object %q", m, object)
		}
	})
}

func TestMarkersRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := marker()
		m.Kind = rapid.SampledFrom([]replica.Kind{replica.KindDelegate, replica.KindClone, replica.KindReplicaDisk}).Draw(rt, "kind")
		m.Source = rapid.SampledFrom([]string{"", otherUUID}).Draw(rt, "source")
		m.Disk = rapid.SampledFrom([]string{"", "0", "15"}).Draw(rt, "disk")
		m.State = manifest.State{}
		if rapid.Bool().Draw(rt, "has a state") {
			m.State = manifest.State{Dirty: rapid.Bool().Draw(rt, "dirty"), Generation: manifest.NewGeneration()}
		}
		before := marked(t, nil, marker())
		read, ownership, err := replica.Read(installation, vmUUID, marked(t, before, m))
		if diff := cmp.Diff(m, read); diff != "" || ownership != replica.Ours || err != nil {
			rt.Errorf("%s, %v (-want +got):\n%s", ownership, err, diff)
		}
	})
}
