package xapisim

import (
	"context"
	"maps"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

// call is one execution of a message. Handlers run with Pool.mu held; see call.unlocked.
type call struct {
	*Pool
	host    *host           // that was asked; nil of calls that the simulator makes itself
	ctx     context.Context // ends with the host's toolstack, and with task.cancel
	client  context.Context // ends when the client has gone; xapi carries most calls on nevertheless
	session string
	task    string // reference of the task; only asynchronous calls have a record of it
	message *datamodel.Message
	given   int   // so many of args were given
	args    []any // typed as the message's parameters; optional ones that were left out are zero
}

type handler func(c *call) (any, error)

// arg is an argument; nil of a parameter that an older release does not have.
func (c *call) arg(n int) any {
	if n < len(c.args) {
		return c.args[n]
	}
	return nil
}

func (c *call) text(n int) string             { v, _ := c.arg(n).(string); return v }
func (c *call) integer(n int) int64           { v, _ := c.arg(n).(int64); return v }
func (c *call) number(n int) float64          { v, _ := c.arg(n).(float64); return v }
func (c *call) boolean(n int) bool            { v, _ := c.arg(n).(bool); return v }
func (c *call) list(n int) []string           { v, _ := c.arg(n).([]string); return v }
func (c *call) table(n int) map[string]string { v, _ := c.arg(n).(map[string]string); return v }
func (c *call) record(n int) map[string]any   { v, _ := c.arg(n).(map[string]any); return v }

// object resolves an argument that is a reference.
func (c *call) object(n int) (*object, error) {
	return c.db.get(c.message.Params[n].Type.Name, c.text(n))
}

// unlocked runs f without Pool.mu: for what takes time. Objects may be gone afterwards unless current_operations hold
// them.
func (c *call) unlocked(f func() error) error {
	c.mu.Unlock()
	defer c.mu.Lock()
	return f()
}

// written lists all calls that are written by hand. The rest of the data model gets accessors.
func written() map[string]handler {
	out := map[string]handler{}
	for _, table := range []map[string]handler{
		sessionCalls, taskCalls, eventCalls, messageCalls, hostCalls, poolCalls,
		srCalls, pbdCalls, vdiCalls, cbtCalls, networkCalls, networkCreateCalls, vbdCalls, mediaCalls, vifCalls,
		vifLockingCalls, vtpmCalls,
		vmCalls, vmFieldCalls, vmPowerCalls, vmRebootCalls, vmSuspendCalls, storageOnly(), migrateCalls,
	} {
		maps.Copy(out, table)
	}
	return out
}

// newHandlers gives every message of the data model a handler.
func newHandlers(model *datamodel.Model) map[string]handler {
	byHand := written()
	out := map[string]handler{}
	for _, class := range model.Classes {
		for _, m := range class.Messages {
			name := class.Name + "." + m.Name
			switch {
			case byHand[name] != nil:
				out[name] = byHand[name]
			case m.Lifecycle.Gone():
				out[name] = func(*call) (any, error) { return nil, fail("MESSAGE_REMOVED") }
			default:
				out[name] = accessor(class, m)
			}
		}
	}
	return out
}

// dispatch checks a request in xapi's order and carries it out (xapi-facts §1.4).
func (p *Pool) dispatch(client context.Context, h *host, request envelope, fault Rule) (any, error) {
	if err := p.emergency(h, request.method); err != nil {
		return nil, err
	}
	name, async := strings.CutPrefix(request.method, "Async.")
	class, method, _ := strings.Cut(name, ".")
	run := p.handlers[name]
	if run == nil {
		if result, known := p.system(request.method, request.params); known {
			return result, nil
		}
		return nil, fail("MESSAGE_METHOD_UNKNOWN", name)
	}
	m := p.db.model.Classes[class].Messages[method]
	c := &call{Pool: p, ctx: p.ctx, client: client, message: m, task: newRef()}
	args, err := c.takeSession(h, name, request.params)
	if err != nil {
		return nil, err
	}
	if err := c.takeArguments(args); err != nil {
		return nil, err
	}
	if fault.Error != nil {
		run = func(*call) (any, error) { return nil, fault.Error }
	}
	run = slowed(run, fault)
	p.mu.Lock()
	defer p.mu.Unlock()
	if class == "task" {
		p.sweepTasks()
	}
	if async {
		if !m.Async() {
			return nil, fail("Fault", "No async mode for this operation (rpc: "+name+")")
		}
		return p.startTask(c, request.method, run)
	}
	return run(c)
}

// takeSession checks the number of arguments, takes the session off them and checks it.
func (c *call) takeSession(h *host, name string, params []any) ([]any, error) {
	m, given := c.message, len(params)
	if !m.NoSession {
		given--
	}
	if given < m.Mandatory() || given > len(m.Params) {
		return nil, fail("MESSAGE_PARAMETER_COUNT_MISMATCH", name, strconv.Itoa(m.Mandatory()), strconv.Itoa(given))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.host, c.ctx = h, h.life
	if h.master != h && (!emergencyCalls[name] || !m.NoSession && !h.local[asText(params[0])]) {
		return nil, fail("HOST_IS_SLAVE", h.master.ip.String())
	}
	if m.NoSession {
		return params, nil
	}
	if text := asText(params[0]); h.local[text] && emergencyCalls[name] {
		c.session = text
		return params[1:], nil
	}
	session, err := decodeText(params[0])
	if err != nil {
		return nil, err
	}
	c.session = session
	return params[1:], c.checkSession(session)
}

func (c *call) takeArguments(args []any) error {
	c.given = len(args)
	for n, param := range c.message.Params {
		value := param.Type.Zero()
		if n < len(args) {
			var err error
			if value, err = c.decoder.value(param.Type, args[n]); err != nil {
				return err
			}
		}
		c.args = append(c.args, value)
	}
	return nil
}

// slowed makes a call take longer, by what a rule says.
func slowed(run handler, fault Rule) handler {
	if fault.Slow == 0 && fault.BytesPerSecond == 0 {
		return run
	}
	return func(c *call) (any, error) {
		err := c.unlocked(func() error {
			sleep(c.ctx, fault.Slow)
			return c.ctx.Err()
		})
		if err != nil {
			return nil, err
		}
		c.ctx = paced(c.ctx, fault.BytesPerSecond)
		return run(c)
	}
}
