package replication_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/line"
)

var (
	chaosTime = flag.Duration("chaos", 0, "how long TestChaos goes on; 0: for one round")
	chaosSeed = flag.Uint64("chaos-seed", 0, "repeat one world of TestChaos; 0: draw a seed")
)

// chaos is a world whose guest writes between runs in which something may be killed, cut or lost.
type chaos struct {
	*world
	rnd  *rand.Rand
	told []string // what happened, for the log

	mu    sync.Mutex
	lines map[string]*line.Line // by the address behind them
}

// line has a line that can be cut lead to an address.
func (c *chaos) line(address string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lines[address] == nil {
		l, err := line.Start(line.Spec{}, address)
		if err != nil {
			return "", err
		}
		c.lines[address] = l
	}
	return c.lines[address].Addr(), nil
}

func (c *chaos) each(do func(*line.Line)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lines {
		do(l)
	}
}

func (c *chaos) tell(format string, args ...any) {
	c.told = append(c.told, fmt.Sprintf(format, args...))
}

// guest lets the guest write: noise, zeroes, what stands elsewhere, and what stood there before the last runs.
func (c *chaos) guest(past [][]byte) {
	for i, vdi := range c.vm.VDIs {
		path := c.simA.VDIPath(vdi)
		content, err := os.ReadFile(path)
		c.must(err)
		for range c.rnd.IntN(16) {
			length := min(len(content), 1+c.rnd.IntN(1<<(12+c.rnd.IntN(14))))
			off := c.rnd.IntN(len(content) - length + 1)
			piece := content[off : off+length]
			switch c.rnd.IntN(4) {
			case 0:
				clear(piece)
			case 1:
				copy(piece, content[c.rnd.IntN(len(content)-length+1):])
			case 2:
				copy(piece, past[i][off:])
			default:
				_, _ = rand.NewChaCha8([32]byte{byte(c.rnd.Uint32()), byte(c.rnd.Uint32())}).Read(piece)
			}
		}
		c.write(path, 0, content)
	}
}

// source reads the disks of the VM.
func (c *chaos) source() (disks [][]byte) {
	for _, vdi := range c.vm.VDIs {
		content, err := os.ReadFile(c.simA.VDIPath(vdi))
		c.must(err)
		disks = append(disks, content)
	}
	return disks
}

// holds tells whether the replica holds this.
func (c *chaos) holds(want [][]byte) bool {
	for i := range want {
		got, err := os.ReadFile(c.replicaPath(i))
		c.must(err)
		if !bytes.Equal(want[i], got[:len(want[i])]) {
			return false
		}
	}
	return true
}

// writing tells whether a run has begun to write since the replica was in a state.
func (c *chaos) writing(before manifest.State) bool {
	records, err := c.store.Replicas(c.Context())
	if err != nil || len(records) != 1 || len(records[0].Disks) == 0 {
		return false
	}
	now := records[0].Disks[0].State
	return now.Dirty && now != before
}

// strike does harm to a run some time after it has begun to write, unless it has ended by then.
func (c *chaos) strike(cancel func()) (ended func()) {
	var before manifest.State
	if record := c.record(); len(record.Disks) > 0 {
		before = record.Disks[0].State
	}
	pause := time.Duration(c.rnd.Int64N(int64(3 * time.Second)))
	kill := func(pool *delegate.Pool) func() {
		return func() {
			for _, vm := range c.delegates(pool) {
				c.kill(vm) // it may have ended by itself
			}
		}
	}
	harm, act := "none", func() {}
	switch c.rnd.IntN(5) {
	case 0:
		harm, act = "source's delegate killed", kill(c.a)
	case 1:
		harm, act = "target's delegate killed", kill(c.b)
	case 2:
		harm, act = "line reset", func() { c.each(func(l *line.Line) { l.Reset() }) }
	case 3:
		harm, act = "cancelled", cancel
	}
	c.tell("%s after %v", harm, pause.Round(time.Millisecond))
	over := make(chan struct{})
	var striking sync.WaitGroup
	striking.Go(func() {
		for !c.writing(before) {
			select {
			case <-over:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
		select {
		case <-over:
		case <-time.After(pause):
			act()
		}
	})
	return func() { close(over); striking.Wait() }
}

// lose has the target's hosts crash between two runs, when no commit vouches for what they wrote: some of that is lost.
func (c *chaos) lose() {
	record := c.record()
	if len(record.Disks) == 0 || !record.Disks[0].State.Dirty || c.rnd.IntN(4) > 0 {
		return
	}
	c.tell("hosts of the target crash")
	hosts, err := xapi.AllRecords[xapi.Host](c.Context(), c.b.API, "host")
	c.must(err)
	for ref := range hosts {
		c.must(c.b.API.Call(c.Context(), "host.set_other_config", nil, ref, map[string]string{"boot_time": fmt.Sprint(c.rnd.Uint32())}))
	}
	c.write(c.replicaPath(0), c.rnd.Int64N(chaosSize-mib), make([]byte, mib))
}

// run makes one run, perhaps in a process of its own that is killed, and reports whether the replica is committed.
func (c *chaos) run(fault bool) (committed bool) {
	c.request.Trust = c.rnd.IntN(5) > 0
	c.engine.ResumeWindow = []time.Duration{0, 0, -1}[c.rnd.IntN(3)]
	c.request.Limit = nil
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	ended := func() {}
	began := c.source()
	switch {
	case fault && c.rnd.IntN(4) == 0:
		before, pause := c.before(), time.Duration(c.rnd.Int64N(int64(3*time.Second)))
		harm := "orchestrator killed"
		var since time.Time
		killed, told := c.killOnce(func() bool {
			if since.IsZero() && c.writing(before) {
				since = time.Now()
			}
			return !since.IsZero() && time.Since(since) > pause
		}, limitVariable+"=8MiB/s")
		if !killed {
			harm = "orchestrator came to its end: " + told
			if !c.holds(began) {
				c.Error("the run came to its end, and the replica differs")
			}
		}
		c.tell("%s after %v", harm, pause.Round(time.Millisecond))
		c.request.Trust = true // as the one that was killed had it
		if c.rnd.IntN(2) == 0 {
			c.guest(began)
		}
	case fault:
		c.request.Limit = ratelimit.Schedule{{BytesPerSecond: 8 * mib}}
		ended = c.strike(cancel)
	}
	now := c.source()
	run, err := c.engine.Replicate(ctx, c.request)
	ended()
	c.tell("trust %v, window %v: %s, %s, %v %s", c.request.Trust, c.engine.ResumeWindow, run.State, modes(run), causes(run), textOf(run, "recovered"))
	if err != nil && !fault {
		c.Fatalf("a run that nothing harmed failed: %v", err)
	}
	var held *replication.HeldError
	if errors.As(err, &held) {
		c.Fatal(err)
	}
	if run.State != report.StateCommitted {
		return false
	}
	want := now
	if slices.Contains(causes(run), "taken-over") {
		want = began
	}
	if !c.holds(want) {
		c.Error("the run was committed, and the replica differs")
	}
	return true
}

func (c *chaos) before() (s manifest.State) {
	if record := c.record(); len(record.Disks) > 0 {
		s = record.Disks[0].State
	}
	return s
}

func modes(run report.Run) (modes []report.Mode) {
	for _, d := range run.Disks {
		modes = append(modes, d.Mode)
	}
	return modes
}

// chaosSize is that of the first disk.
const chaosSize = 40 * mib

// TestChaos replays whole runs, over and over: the guest writes, delegates, orchestrators and lines are lost, and hosts crash. What is
// committed is equal. make chaos goes on for minutes.
func TestChaos(t *testing.T) {
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	c := &chaos{rnd: rand.New(rand.NewPCG(seed, 0)), lines: map[string]*line.Line{}}
	c.world = newWorld(t, layout{sizes: []int64{chaosSize, 6*mib + 4096}})
	t.Cleanup(func() {
		c.each(func(l *line.Line) { l.Close() })
		if t.Failed() || testing.Verbose() {
			for _, what := range c.told {
				t.Log(what)
			}
			t.Logf("-chaos-seed %d", seed)
		}
	})
	c.engine.SetLine(c.line)
	c.replicate() // of a first run there is nothing to go on from
	past := c.source()
	committed, runs := 0, 0
	for end := time.Now().Add(*chaosTime); runs == 0 || time.Now().Before(end); {
		for range 1 + c.rnd.IntN(3) {
			c.guest(past)
			if runs++; c.run(true) {
				committed++
			}
			c.lose()
		}
		past = c.source()
		c.guest(past)
		if !c.run(false) || t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d runs to which something happened, %d of them were committed all the same", runs, committed)
}
