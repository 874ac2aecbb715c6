package xapisim

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
)

// FieldError is what is wrong with a member of a rule, by its name in JSON.
type FieldError struct {
	Member string
	Err    error
}

func (e *FieldError) Error() string { return fmt.Sprintf("%q: %v", e.Member, e.Err) }

func (e *FieldError) Unwrap() error { return e.Err }

func flaw(member, format string, values ...any) error {
	return &FieldError{member, fmt.Errorf(format, values...)}
}

// Check tells what makes the rule impossible or pointless: the first such thing, as a FieldError.
func (r *Rule) Check() error {
	for _, check := range []func() error{r.checkMethod, r.checkChances, r.checkDelays, r.checkLie, r.checkEnding} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// knownMethods are the names of all messages, which a misspelt rule would never meet.
var knownMethods = sync.OnceValues(func() ([]string, error) {
	model, err := wholeModel()
	if err != nil {
		return nil, err
	}
	names := []string{acceptance, "system.listMethods"}
	for _, handler := range dataHandlers {
		names = append(names, "http/"+handler.action)
	}
	for name := range newHandlers(model) {
		names = append(names, name)
	}
	return names, nil
})

func (r *Rule) checkMethod() error {
	if strings.HasPrefix(r.Method, "Async.") {
		return flaw("method", "%s: leave Async. away, a rule is for both forms", r.Method)
	}
	if r.Method == acceptance && r.Object != "" {
		return flaw("object", "a connection has no object")
	}
	if r.Method == "" {
		return nil
	}
	names, err := knownMethods()
	if err != nil {
		return err
	}
	for _, name := range names {
		matched, err := path.Match(r.Method, name)
		if err != nil {
			return flaw("method", "%s: %w; want a method, or a pattern with *", r.Method, err)
		}
		if matched {
			return nil
		}
	}
	return flaw("method", "there is no method %s; want such as VDI.create, VDI.*, http/put_import or %s", r.Method, acceptance)
}

func (r *Rule) checkChances() error {
	switch {
	case r.After < 0:
		return flaw("after", "%d calls: want 0 or more", r.After)
	case r.Count < 0:
		return flaw("count", "%d calls: want 1 or more, or none for no end", r.Count)
	case !(r.Probability >= 0 && r.Probability <= 1):
		return flaw("probability", "%v: want more than 0 and at most 1", r.Probability)
	}
	return nil
}

func (r *Rule) checkDelays() error {
	switch {
	case r.Delay < 0:
		return flaw("delay", "%s is less than nothing", r.Delay)
	case r.Slow < 0:
		return flaw("slow", "%s is less than nothing", r.Slow)
	case r.BytesPerSecond < 0:
		return flaw("bytes_per_second", "%d: want 1 or more", r.BytesPerSecond)
	case r.Method == acceptance && r.Delay > 0:
		return flaw("delay", "a connection is cut or hangs at once")
	case r.Method == acceptance && (r.Slow > 0 || r.BytesPerSecond > 0):
		return flaw("method", "a connection can be cut or hang; slow and bytes_per_second are for calls")
	}
	return nil
}

func (r *Rule) checkLie() error {
	if r.Lie == nil {
		return nil
	}
	if r.Method == acceptance {
		return flaw("lie", "a connection is accepted before anything is asked of the pool")
	}
	if err := r.Lie.Check(); err != nil {
		return &FieldError{"lie", err}
	}
	return nil
}

func (r *Rule) checkEnding() error {
	endings := 0
	for _, given := range []bool{r.Error != nil, r.Cut, r.CutReply, r.CutAfter != 0, r.Hang, r.HangReply} {
		if given {
			endings++
		}
	}
	overHTTP := strings.HasPrefix(r.Method, "http/")
	switch {
	case endings > 1:
		return errors.New("error, cut, cut_after and hang exclude each other: a call ends but once")
	case endings == 0 && r.Delay == 0 && r.Slow == 0 && r.BytesPerSecond == 0 && r.Lie == nil:
		return errors.New("it does nothing: want one of error, cut, cut_after, hang, delay, slow, bytes_per_second, lie")
	case r.Error != nil && r.Error.Code == "":
		return flaw("error", "the code is empty")
	case r.CutAfter < 0:
		return flaw("cut_after", "%d bytes: want 1 or more", r.CutAfter)
	case r.CutAfter > 0 && !overHTTP:
		return flaw("cut_after", "only for a method of http/…, whose body is long enough")
	case r.Method == acceptance && !r.Cut && !r.Hang:
		return flaw("method", "a connection can be cut, or hang, before it is used: nothing else")
	case r.Slow > 0 && overHTTP:
		return flaw("slow", "a handler of http/… is slowed down by bytes_per_second or delay")
	case r.Slow > 0 && endings > 0 && !r.CutReply && !r.HangReply:
		return flaw("slow", "a call that is not carried out takes no time: use delay")
	}
	return nil
}
