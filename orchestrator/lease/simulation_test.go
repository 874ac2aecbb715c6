package lease_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/orchestrator/lease"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// pool is a xapi.API with one VM, whose calls take as long as they like and are carried out although nobody waits for them any more.
type pool struct {
	xapi.API
	mu      sync.Mutex
	config  map[string]string
	skew    time.Duration // of its clock
	calls   map[string]int
	weather func(method string) (before, after time.Duration, lost bool) // nil: calm
}

func newPool() *pool { return &pool{config: map[string]string{}, calls: map[string]int{}} }

func (p *pool) Call(ctx context.Context, method string, result any, args ...any) error {
	p.mu.Lock()
	p.calls[method]++
	var before, after time.Duration
	lost := false
	if p.weather != nil {
		before, after, lost = p.weather(method)
	}
	p.mu.Unlock()
	if before == 0 && after == 0 && !lost {
		return store(result, p.carryOut(method, args))
	}
	answered := make(chan any, 1)
	go func() {
		time.Sleep(before)
		answer := p.carryOut(method, args)
		time.Sleep(after)
		answered <- answer
	}()
	select {
	case answer := <-answered:
		if lost {
			return xapi.ErrOutcomeUnknown
		}
		return store(result, answer)
	case <-ctx.Done():
		return errors.Join(xapi.ErrOutcomeUnknown, ctx.Err())
	}
}

func store(result, answer any) error {
	if err, ok := answer.(error); ok {
		return err
	}
	if result != nil {
		reflect.ValueOf(result).Elem().Set(reflect.ValueOf(answer))
	}
	return nil
}

// carryOut gives the result, or an error.
func (p *pool) carryOut(method string, args []any) any {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch method {
	case "host.get_servertime":
		return xapi.Time{Time: time.Now().Add(p.skew).UTC().Truncate(time.Second)}
	case "VM.get_other_config":
		return maps.Clone(p.config)
	case "VM.add_to_other_config":
		key := args[1].(string)
		if _, ok := p.config[key]; ok {
			return &xapi.Error{Code: "MAP_DUPLICATE_KEY", Method: method}
		}
		p.config[key] = args[2].(string)
		return nil
	case "VM.remove_from_other_config":
		delete(p.config, args[1].(string))
		return nil
	}
	return fmt.Errorf("%s is not known here", method)
}

// log is the VM's other_config as it is now.
func (p *pool) log() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.config)
}

func (p *pool) place() lease.Place { return lease.Place{API: p, VM: "replica", Coordinator: "host"} }

func nobodyIsDead(context.Context, lease.Holder) bool { return false }

// game is some orchestrators that want one replica.
type game struct {
	pool *pool
	mu   sync.Mutex
	held map[string]*lease.Lease // by run
	dead map[string]bool         // by run, and known to be so
	told []string                // what went wrong
	had  int                     // how often somebody had the lease
}

// look fails the game when two have the lease at one moment, which can only be when one has just taken it.
func (g *game) look() {
	var holders []string
	for run, l := range g.held {
		if l.Err() == nil {
			holders = append(holders, run)
		}
	}
	if len(holders) > 1 {
		g.told = append(g.told, fmt.Sprintf("%v: %v have the lease; the log is %v", time.Now(), holders, g.pool.log()))
	}
}

// play is one orchestrator: it takes the lease, works for some time, and gives it back, leaves it or dies.
func (g *game) play(ctx context.Context, random *rand.Rand, name string) {
	for turn := 0; ctx.Err() == nil; turn++ {
		run := fmt.Sprintf("%s.%d", name, turn)
		over := func(_ context.Context, h lease.Holder) bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.dead[h.Run]
		}
		l, err := lease.Take(ctx, g.pool.place(), lease.Holder{Process: "host:1:boot/1", Run: run}, over)
		if err != nil {
			time.Sleep(time.Duration(random.Int64N(int64(10 * time.Second))))
			continue
		}
		g.mu.Lock()
		g.held[run] = l
		g.had++
		g.look()
		g.mu.Unlock()
		working, lost := context.WithTimeout(ctx, time.Duration(random.Int64N(int64(4*lease.Time))))
		if random.IntN(4) > 0 { // else it hangs, and does not renew
			l.Keep(ctx, func(error) { lost() })
		}
		<-working.Done()
		lost()
		switch random.IntN(3) {
		case 0:
			_ = l.Release(context.WithoutCancel(ctx))
		case 1:
			l.Leave()
		default:
			l.Leave()
			g.mu.Lock()
			g.dead[run] = true // what it has sent may come yet
			g.mu.Unlock()
		}
		g.mu.Lock()
		delete(g.held, run)
		g.mu.Unlock()
	}
}

// TestNeverTwoHolders has three orchestrators race for a replica in a pool where calls take up to two minutes, before they are carried out
// and after, answers are lost, orchestrators hang and die with calls on their way, and the clock is set within the margin.
func TestNeverTwoHolders(t *testing.T) {
	had := 0
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		slow := rapid.Float64Range(0, 0.3).Draw(rt, "slow")
		lost := rapid.Float64Range(0, 0.3).Draw(rt, "lost")
		longest := rapid.Int64Range(int64(time.Millisecond), int64(2*time.Minute)).Draw(rt, "longest")
		steps := rapid.Int64Range(0, int64(7*time.Second)).Draw(rt, "steps")
		g := &game{pool: newPool(), held: map[string]*lease.Lease{}, dead: map[string]bool{}}
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
			defer cancel()
			random := rand.New(rand.NewPCG(seed, 0))
			delay := func() time.Duration {
				if random.Float64() >= slow {
					return time.Duration(random.Int64N(int64(50 * time.Millisecond)))
				}
				return time.Duration(random.Int64N(longest))
			}
			g.pool.weather = func(string) (time.Duration, time.Duration, bool) {
				g.pool.skew = time.Duration(random.Int64N(steps + 1))
				return delay(), delay(), random.Float64() < lost
			}
			var players sync.WaitGroup
			for i := range 3 {
				players.Go(func() { g.play(ctx, rand.New(rand.NewPCG(seed, uint64(i+1))), fmt.Sprint("run", i)) })
			}
			players.Wait()
			time.Sleep(2 * 2 * time.Minute) // for what was sent and is not waited for any more
		})
		had += g.had
		if len(g.told) > 0 {
			rt.Fatalf("%d times, the first: %s", len(g.told), g.told[0])
		}
	})
	if had < 100 && !t.Failed() {
		t.Errorf("all in all the lease was taken %d times", had)
	}
}
