package xapisim

import (
	"maps"
	"strings"
	"sync"
	"time"
)

// Rule makes calls of one method go wrong. The zero Rule of a method does nothing; its members combine: a delay, then
// one of an error or a cut. The methods of the HTTP handlers that move data are "http/put_import", "http/put_import_raw_vdi",
// "http/get_export_raw_vdi" and so on, as xapi calls them.
type Rule struct {
	Method   string        // such as "VDI.create": matches the asynchronous form too; "" matches every method
	After    int           // so many matching calls are let through first
	Count    int           // so many are then hit; 0 means all
	Delay    time.Duration // waited before the call is carried out
	Error    *Error        // answered instead of carrying the call out; of an asynchronous call, by its task
	Cut      bool          // the connection is closed without an answer and the call is not carried out
	CutReply bool          // the call is carried out, then the connection is closed without an answer
	CutAfter int64         // of these handlers only: the connection is closed when so many bytes have been moved
}

type activeRule struct {
	Rule
	seen, hit int
}

// faults holds the rules and counts requests. It has its own lock: faults strike before the database is touched.
type faults struct {
	mu    sync.Mutex
	rules []*activeRule
	calls map[string]int
}

// take counts a request and gives what is to happen to it. Of several matching rules the first added strikes.
func (f *faults) take(method string) Rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[method]++
	for _, r := range f.rules {
		if r.Method != "" && r.Method != strings.TrimPrefix(method, "Async.") {
			continue
		}
		r.seen++
		if r.seen <= r.After || r.Count > 0 && r.hit >= r.Count {
			continue
		}
		r.hit++
		return r.Rule
	}
	return Rule{}
}

// Fault adds a rule. The function that it returns takes the rule away again.
func (p *Pool) Fault(r Rule) (remove func()) {
	p.faults.mu.Lock()
	defer p.faults.mu.Unlock()
	active := &activeRule{Rule: r}
	p.faults.rules = append(p.faults.rules, active)
	return func() {
		p.faults.mu.Lock()
		defer p.faults.mu.Unlock()
		kept := p.faults.rules[:0:0]
		for _, other := range p.faults.rules {
			if other != active {
				kept = append(kept, other)
			}
		}
		p.faults.rules = kept
	}
}

// Calls counts the requests for a method so far, on all hosts and whatever their outcome. "VM.start" and
// "Async.VM.start" are counted apart. HTTP handlers are counted by the names
// that Rule has for them.
func (p *Pool) Calls(method string) int {
	p.faults.mu.Lock()
	defer p.faults.mu.Unlock()
	return p.faults.calls[method]
}

// AllCalls gives the counts of all methods that have been called.
func (p *Pool) AllCalls() map[string]int {
	p.faults.mu.Lock()
	defer p.faults.mu.Unlock()
	return maps.Clone(p.faults.calls)
}
