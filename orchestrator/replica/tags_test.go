package replica_test

import (
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/replica"
)

func TestTags(t *testing.T) {
	before := replica.Tags([]string{"gold", "a, b", "été"})
	wanted := replica.Tags([]string{"silver", "été", replica.TagLeaveAlone})
	if !slices.Equal(wanted, []string{"silver", replica.TagLeaveAlone, "été"}) {
		t.Errorf("wanted: %q", wanted)
	}
	now := append(slices.Clone(before), "ours", "a")
	add, remove := replica.TagChanges(now, wanted, replica.CarriedTags(before))
	if !slices.Equal(add, []string{"silver"}) || !slices.Equal(remove, []string{"a, b", "gold"}) {
		t.Errorf("add %q, remove %q", add, remove)
	}
	for _, carried := range []string{"", "%zz", "ours%2"} {
		if _, remove := replica.TagChanges(now, wanted, carried); len(remove) != 0 {
			t.Errorf("with carried %q: remove %q", carried, remove)
		}
	}
}
