package replica

import (
	"fmt"
	"slices"
	"strings"
)

// Failover says who does the work of a VM: the VM itself, or its replica. It is what an administrator decided, and nothing but his next
// decision changes it.
//
//	            failover               commit
//	standby ─▶ failing-over ─▶ failed-over ─▶ committed
//	   ▲            │               │             │
//	   ├─ undoing ◀─┴───────────────┘             │
//	   │                            └──────┬──────┘
//	   │                                   ▼ reverse
//	   └────────── failing-back ◀─── reversed ◀─ reversing
//
// A state that ends in 'ing' is left by finishing what it names, or by its way back; a process that dies leaves it as it is. In every
// state but standby no run writes to the replica.
type Failover string

// The states.
const (
	Standby     Failover = ""             // the replica waits, and its runs keep it up to date
	FailingOver Failover = "failing-over" // on the way to FailedOver; what is done can be undone
	FailedOver  Failover = "failed-over"  // the replica's VM does the work; its restore point is kept for the way back
	Undoing     Failover = "undoing"      // on the way back to Standby: what the replica's VM did is given up
	Committed   Failover = "committed"    // the replica's VM does the work for good, and has no way back
	Reversing   Failover = "reversing"    // on the way to Reversed
	Reversed    Failover = "reversed"     // the former source is a replica of the VM that does the work now
	FailingBack Failover = "failing-back" // on the way to Standby: the former source takes the work over again
)

// Verb is what an administrator may do about a failover.
type Verb string

// The verbs, as the commands call them.
const (
	VerbFailover Verb = "failover"
	VerbUndo     Verb = "undo"
	VerbCommit   Verb = "commit"
	VerbReverse  Verb = "reverse"
	VerbFailback Verb = "failback"
)

// transition is a verb's way: from one of these states, over one, to another. From holds the way's own middle, since each verb goes on
// where it was interrupted.
type transition struct {
	from    []Failover
	through Failover
	to      Failover
}

var transitions = map[Verb]transition{
	VerbFailover: {[]Failover{Standby, FailingOver}, FailingOver, FailedOver},
	VerbUndo:     {[]Failover{FailingOver, FailedOver, Undoing}, Undoing, Standby},
	VerbCommit:   {[]Failover{FailedOver}, FailedOver, Committed},
	VerbReverse:  {[]Failover{FailedOver, Committed, Reversing}, Reversing, Reversed},
	VerbFailback: {[]Failover{Reversed, FailingBack}, FailingBack, Standby},
}

// Begin gives the state in which a verb does its work, or a *FailoverError when it cannot be done from this one.
func (f Failover) Begin(verb Verb) (Failover, error) {
	t := transitions[verb]
	if !slices.Contains(t.from, f) {
		return f, &FailoverError{State: f, Verb: verb}
	}
	return t.through, nil
}

// End gives the state that a verb's work leads to.
func (f Failover) End(verb Verb) (Failover, error) {
	t := transitions[verb]
	if f != t.through {
		return f, &FailoverError{State: f, Verb: verb}
	}
	return t.to, nil
}

// Verbs lists what can be done from this state.
func (f Failover) Verbs() []Verb {
	var verbs []Verb
	for _, v := range []Verb{VerbFailover, VerbUndo, VerbCommit, VerbReverse, VerbFailback} {
		if slices.Contains(transitions[v].from, f) {
			verbs = append(verbs, v)
		}
	}
	return verbs
}

// Valid reports whether f is one of the states.
func (f Failover) Valid() bool {
	return slices.Contains([]Failover{Standby, FailingOver, FailedOver, Undoing, Committed, Reversing, Reversed, FailingBack}, f)
}

// String names the state, Standby too.
func (f Failover) String() string {
	if f == Standby {
		return "standby"
	}
	return string(f)
}

// FailoverError says that a verb does not fit the state of a replica.
type FailoverError struct {
	State Failover
	Verb  Verb
}

func (e *FailoverError) Error() string {
	verbs := e.State.Verbs()
	if len(verbs) == 0 {
		return fmt.Sprintf("the replica is %s, and %s cannot be done then", e.State, e.Verb)
	}
	names := make([]string, len(verbs))
	for i, v := range verbs {
		names[i] = string(v)
	}
	return fmt.Sprintf("the replica is %s, and %s cannot be done then; what can be done is %s", e.State, e.Verb, strings.Join(names, " or "))
}
