package blockio

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"
)

// Op names an operation of a Device for a Rule.
type Op string

// The operations that a Rule can match.
const (
	OpRead        Op = "read"
	OpWrite       Op = "write"
	OpZero        Op = "zero"
	OpFlush       Op = "flush"
	OpSetReadOnly Op = "set read-only"
	OpClose       Op = "close"
)

// ErrInjected is the error of a Rule that names none.
var ErrInjected = errors.New("injected fault")

// Rule says which operations of a Faulty device go wrong, and how.
type Rule struct {
	Op          Op    // the operation matched; "" matches all but close
	Off, Length int64 // matches what touches these bytes; Length 0 matches anywhere, else flush, set read-only and close never match
	After       int   // matches that pass before the rule acts
	Count       int   // matches it then acts on; 0: all

	Err   error         // nil: ErrInjected, or none when there is only a Delay
	Delay time.Duration // waited for first; Close of the device cuts it short with ErrClosed
	Torn  int           // first bytes of a read, write or zeroing that are done before it fails
}

// fault is the error of a rule, if it has one.
func (r *Rule) fault() error {
	if r.Err == nil && (r.Delay == 0 || r.Torn > 0) {
		return ErrInjected
	}
	return r.Err
}

func (r *Rule) matches(op Op, off, length int64) bool {
	switch {
	case r.Op != op && (r.Op != "" || op == OpClose):
		return false
	case r.Length == 0:
		return true
	}
	return length > 0 && off < r.Off+r.Length && r.Off < off+length
}

// Faulty is a Device that passes everything on to another, except where a rule says otherwise. The first rule that acts on an operation
// decides; every rule that matches counts it. Safe for concurrent use.
type Faulty struct {
	dev    Device
	closed chan struct{} // ends delays
	once   sync.Once

	mu         sync.Mutex
	rules      []*ruleState
	operations map[Op]int64
	injected   map[Op]int64
}

type ruleState struct {
	Rule
	matched int
}

var _ Device = (*Faulty)(nil)

// NewFaulty returns a Faulty device in front of dev. Closing it closes dev.
func NewFaulty(dev Device, rules ...Rule) *Faulty {
	f := &Faulty{dev: dev, closed: make(chan struct{}), operations: map[Op]int64{}, injected: map[Op]int64{}}
	f.Add(rules...)
	return f
}

// Add appends rules, also while the device is in use.
func (f *Faulty) Add(rules ...Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, rule := range rules {
		f.rules = append(f.rules, &ruleState{Rule: rule})
	}
}

// Clear removes all rules. Delays that have begun go on.
func (f *Faulty) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

// Operations returns how often each operation was called.
func (f *Faulty) Operations() map[Op]int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.operations)
}

// Injected returns on how many of each operation a rule acted.
func (f *Faulty) Injected() map[Op]int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.injected)
}

// inject counts an operation and applies the rule that acts on it: it waits, then returns how many bytes are to be done and the error
// that is to follow.
func (f *Faulty) inject(op Op, off, length int64) (done int64, err error) {
	rule := f.choose(op, off, length)
	if rule == nil {
		return length, nil
	}
	if rule.Delay > 0 {
		timer := time.NewTimer(rule.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-f.closed:
			if op != OpClose {
				return 0, ErrClosed
			}
		}
	}
	if err := rule.fault(); err != nil {
		return min(int64(rule.Torn), length), fmt.Errorf("blockio: %s at offset %d: %w", op, off, err)
	}
	return length, nil
}

func (f *Faulty) choose(op Op, off, length int64) *Rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.operations[op]++
	var chosen *Rule
	for _, rule := range f.rules {
		if !rule.matches(op, off, length) {
			continue
		}
		rule.matched++
		if chosen == nil && rule.matched > rule.After && (rule.Count == 0 || rule.matched <= rule.After+rule.Count) {
			chosen = &rule.Rule
		}
	}
	if chosen != nil {
		f.injected[op]++
	}
	return chosen
}

func (f *Faulty) Size() int64     { return f.dev.Size() }
func (f *Faulty) SectorSize() int { return f.dev.SectorSize() }

func (f *Faulty) ReadAt(p []byte, off int64) (int, error) {
	return f.transfer(OpRead, f.dev.ReadAt, p, off)
}

func (f *Faulty) WriteAt(p []byte, off int64) (int, error) {
	return f.transfer(OpWrite, f.dev.WriteAt, p, off)
}

func (f *Faulty) transfer(op Op, call func([]byte, int64) (int, error), p []byte, off int64) (int, error) {
	done, fault := f.inject(op, off, int64(len(p)))
	if fault == nil {
		return call(p, off)
	}
	if done == 0 {
		return 0, fault
	}
	n, err := call(p[:done], off)
	return n, errors.Join(fault, err)
}

func (f *Faulty) WriteZeroes(off, length int64) error {
	done, fault := f.inject(OpZero, off, length)
	if fault != nil && done == 0 {
		return fault
	}
	return errors.Join(fault, f.dev.WriteZeroes(off, done))
}

func (f *Faulty) Flush() error       { return f.control(OpFlush, f.dev.Flush) }
func (f *Faulty) SetReadOnly() error { return f.control(OpSetReadOnly, f.dev.SetReadOnly) }

func (f *Faulty) control(op Op, call func() error) error {
	if _, fault := f.inject(op, 0, 0); fault != nil {
		return fault
	}
	return call()
}

// Close closes the device behind in any case; the error of a rule comes on top.
func (f *Faulty) Close() error {
	_, fault := f.inject(OpClose, 0, 0)
	f.once.Do(func() { close(f.closed) })
	return errors.Join(fault, f.dev.Close())
}
