package replica_test

import (
	"errors"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/replica"
)

var failoverStates = []replica.Failover{
	replica.Standby, replica.FailingOver, replica.FailedOver, replica.Undoing, replica.Committed, replica.Reversing, replica.Reversed, replica.FailingBack,
}

var failoverVerbs = []replica.Verb{replica.VerbFailover, replica.VerbUndo, replica.VerbCommit, replica.VerbReverse, replica.VerbFailback}

// TestFailoverInterrupted: whatever a verb was doing when its process died, doing the verb again goes on with it, and there is always
// a verb that leads on.
func TestFailoverInterrupted(t *testing.T) {
	for _, state := range failoverStates {
		if !state.Valid() || len(state.Verbs()) == 0 {
			t.Errorf("nothing leads out of %s", state)
		}
		for _, verb := range state.Verbs() {
			through, err := state.Begin(verb)
			if err != nil {
				t.Fatalf("%s from %s: %v", verb, state, err)
			}
			if again, err := through.Begin(verb); err != nil || again != through {
				t.Errorf("%s was interrupted in %s and does not go on: %s, %v", verb, through, again, err)
			}
			if to, err := through.End(verb); err != nil || !to.Valid() || to == through {
				t.Errorf("%s ends in %q, %v", verb, to, err)
			}
		}
	}
}

// TestFailoverRefused: what does not fit a state is refused, with the state and the verb in the error.
func TestFailoverRefused(t *testing.T) {
	allowed := 0
	for _, state := range failoverStates {
		for _, verb := range failoverVerbs {
			_, err := state.Begin(verb)
			refused := (*replica.FailoverError)(nil)
			switch {
			case err == nil:
				allowed++
			case !errors.As(err, &refused) || refused.State != state || refused.Verb != verb:
				t.Errorf("%s from %s: %v", verb, state, err)
			}
		}
	}
	if want := 11; allowed != want {
		t.Errorf("%d verbs are allowed in all states together, want %d", allowed, want)
	}
	if _, err := replica.Standby.End(replica.VerbFailover); err == nil {
		t.Error("a failover ended that had not begun")
	}
}
