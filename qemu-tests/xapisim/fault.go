package xapisim

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
)

// Rule makes calls go wrong. It says which calls it is for, which of them it hits, and what happens to those: they may be slowed
// down, may come after something that happened behind the pool's back (Lie), and may have one ending other than their own (Error,
// Cut, CutReply, CutAfter, Hang or HangReply). Rules can also be read from a JSON file, see ParseFaults.
//
// The delays of all rules that hit a call add up, and all their lies are told; of endings, that of the rule first added strikes, and a rule whose turn does not
// come for that reason has not seen the call.
type Rule struct {
	Name string // tells the rule from others in messages

	// Method is such as "VDI.create", and is for the asynchronous form too; "http/put_import",
	// "http/put_import_raw_vdi", "http/get_export_raw_vdi" and so on are the HTTP handlers that move data, as xapi calls them. An
	// asterisk stands for any characters but a slash: "VDI.*", "http/*". "" is every method and handler. "connection" is apart:
	// TCP connections as they are accepted.
	Method string
	// Object is the reference, uuid or name_label of an object. The call names it, as an argument or within one, or it names one
	// that belongs to it: a VBD to its VM and its VDI, a VIF to its VM and its network, a VDI and a PBD to its SR, a PBD to its
	// host, and a VM with its disks to their SRs. So the name of an SR is for all that is done with its disks. "" is any.
	Object string

	After       int     // so many matching calls are let through first
	Probability float64 // of each call after those to be hit; 0 means all are
	Seed        uint64  // of the chances: the same seed hits the same calls, by their order
	Count       int     // so many are hit; 0 means no end

	Delay          time.Duration // waited before the call is carried out, or its task made
	Slow           time.Duration // the call takes so much longer: of an asynchronous one, the task
	BytesPerSecond int64         // limits what the call copies on an SR, and what goes over its connection, in each direction

	// Lie is told before the call is carried out, or ends. When it cannot be told, the call fails: INTERNAL_ERROR, with the cause.
	Lie *Lie

	Error     *Error // answered instead of carrying the call out; of an asynchronous call, by its task
	Cut       bool   // the connection is closed without an answer and the call is not carried out
	CutReply  bool   // the call is carried out, then the connection is closed without an answer
	CutAfter  int64  // of "http/…" only: the connection is closed when so many bytes have gone over it since the request's head
	Hang      bool   // the call is not carried out and never answered; the connection stays open
	HangReply bool   // the call is carried out, its answer stops in the middle; the connection stays open
}

// ends tells whether the rule has an ending; without one it slows calls down only.
func (r *Rule) ends() bool {
	return r.Error != nil || r.Cut || r.CutReply || r.CutAfter != 0 || r.Hang || r.HangReply
}

// acceptance is the method of rules for TCP connections.
const acceptance = "connection"

type activeRule struct {
	Rule
	chance    *rand.Rand
	seen, hit int
}

// matches tells whether the rule is for a call of a method, without "Async.", that names these objects.
func (r *activeRule) matches(method string, named map[string]bool) bool {
	if r.Object != "" && !named[r.Object] {
		return false
	}
	if r.Method == "" || method == acceptance {
		return r.Method == method || method != acceptance
	}
	matched, err := path.Match(r.Method, method)
	return matched && err == nil // Check has tried the pattern
}

// strikes counts a matching call and tells whether the rule hits it.
func (r *activeRule) strikes() bool {
	r.seen++
	if r.seen <= r.After || r.Count > 0 && r.hit >= r.Count || r.Probability > 0 && r.chance.Float64() >= r.Probability {
		return false
	}
	r.hit++
	return true
}

// faults holds the rules and counts requests. It has its own lock: faults strike before the database is touched.
type faults struct {
	mu    sync.Mutex
	rules []*activeRule
	calls map[string]int
	told  func(r Rule, method string) // nil: nobody
}

// take counts a request and gives what is to happen to it, as one rule, and the lies of all that hit it. named gives what the objects of the call are known by;
// it is asked only when a rule is for objects.
func (f *faults) take(method string, named func() map[string]bool) (out Rule, lies []Lie) {
	var names map[string]bool
	if f.forObjects() {
		names = named()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[method]++
	for _, r := range f.rules {
		if !r.matches(strings.TrimPrefix(method, "Async."), names) || r.ends() && out.ends() || !r.strikes() {
			continue
		}
		if f.told != nil {
			f.told(r.Rule, method)
		}
		delay, slow, rate := out.Delay+r.Delay, out.Slow+r.Slow, out.BytesPerSecond
		if rate == 0 || r.BytesPerSecond > 0 && r.BytesPerSecond < rate {
			rate = r.BytesPerSecond
		}
		if r.Lie != nil {
			lies = append(lies, *r.Lie)
		}
		if r.ends() {
			out = r.Rule
		}
		out.Delay, out.Slow, out.BytesPerSecond = delay, slow, rate
	}
	return out, lies
}

func (f *faults) forObjects() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rules {
		if r.Object != "" {
			return true
		}
	}
	return false
}

// Fault adds a rule. The function that it returns takes the rule away again. A rule that cannot be, by Rule.Check, is a mistake
// of the program: Fault panics.
func (p *Pool) Fault(r Rule) (remove func()) {
	if err := r.Check(); err != nil {
		panic("xapisim: a rule that cannot be: " + err.Error())
	}
	active := &activeRule{Rule: r, chance: rand.New(rand.NewPCG(r.Seed, 0))}
	p.faults.mu.Lock()
	defer p.faults.mu.Unlock()
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

// OnFault has f told of each hit of a rule, one at a time, before anything comes of it. f must not call the pool.
func (p *Pool) OnFault(f func(r Rule, method string)) {
	p.faults.mu.Lock()
	defer p.faults.mu.Unlock()
	p.faults.told = f
}

// Calls counts the requests for a method so far, on all hosts and whatever their outcome. "VM.start" and
// "Async.VM.start" are counted apart. HTTP handlers and accepted
// connections are counted by the names that Rule has for them.
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

// strike lets the rules have their way with a request, as far as they strike before it is carried out; what is left of them is
// given back. It ends the handler, by a panic that net/http provides for that, when the request is not to be carried out.
// arguments are what the request names objects by: strings, in whatever sets and maps.
func (p *Pool) strike(r *http.Request, method string, arguments any) Rule {
	fault, lies := p.faults.take(method, func() map[string]bool { return p.named(arguments) })
	if fault.Delay > 0 && !sleep(r.Context(), fault.Delay) {
		panic(http.ErrAbortHandler)
	}
	for _, lie := range lies {
		if err := p.Lie(lie); err != nil {
			fault = Rule{Error: internal(err.Error())} // whoever wrote the rule is to learn of it
		}
	}
	if fault.Cut {
		panic(http.ErrAbortHandler)
	}
	if fault.Hang {
		p.hang(r.Context())
	}
	if c, ok := r.Context().Value(connectionKey{}).(*connection); ok {
		c.arm(fault)
	}
	return fault
}

// strikeReply lets a rule have its way with a request that has been carried out, before it is answered.
func (p *Pool) strikeReply(r *http.Request, fault Rule) {
	if fault.CutReply {
		panic(http.ErrAbortHandler)
	}
	if c, ok := r.Context().Value(connectionKey{}).(*connection); ok && fault.HangReply {
		c.stall()
	}
}

// hang keeps a request until its client or the pool has gone.
func (p *Pool) hang(client context.Context) {
	select {
	case <-client.Done():
	case <-p.ctx.Done():
	}
	panic(http.ErrAbortHandler)
}
