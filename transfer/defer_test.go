package transfer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

// tape is a disk whose blocks have numbered contents, of which it keeps only the
// numbers; it takes whole blocks that it can read as such. Reads from an offset on
// take their time, one after the other.
type tape struct {
	blockio.Device
	slowFrom int64
	busy     sync.Mutex
	mu       sync.Mutex
	numbers  []uint16
	// rewritten counts the blocks that were written with what they held.
	rewritten int
}

func newTape(numbers []uint16, slowFrom int64) *tape {
	return &tape{numbers: slices.Clone(numbers), slowFrom: slowFrom}
}

func (d *tape) Size() int64  { return int64(len(d.numbers)) * manifest.BlockSize }
func (d *tape) Flush() error { return nil }

func (d *tape) ReadAt(p []byte, off int64) (int, error) {
	if off >= d.slowFrom {
		d.busy.Lock()
		time.Sleep(time.Millisecond)
		d.busy.Unlock()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	fill(p, d.numbers[off/manifest.BlockSize:])
	return len(p), nil
}

func (d *tape) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for at := 0; at < len(p); at += manifest.BlockSize {
		block, n := (off+int64(at))/manifest.BlockSize, uint16(binary.LittleEndian.Uint64(p[at:])>>32)
		if d.numbers[block] == n {
			d.rewritten++
		}
		d.numbers[block] = n
	}
	return len(p), nil
}

func (d *tape) WriteZeroes(off, length int64) error {
	_, err := d.WriteAt(make([]byte, length), off)
	return err
}

// newBlocks returns contents that occur nowhere else.
func newBlocks(first, n int) (numbers []uint16) {
	for i := range n {
		numbers = append(numbers, uint16(first+i))
	}
	return numbers
}

// deferrals counts the blocks that WANTs leave for later.
type deferrals struct {
	transfer.Conn
	n atomic.Int64
}

func (d *deferrals) WriteFrame(ctx context.Context, t netproto.Type, payload ...[]byte) error {
	if t == 0x14 && len(payload[0]) >= 20 {
		d.n.Add(int64(bits.OnesCount64(binary.BigEndian.Uint64(payload[0][12:]))))
	}
	return d.Conn.WriteFrame(ctx, t, payload...)
}

// TestNewContentFlows: on a disk of new content waiting ends soon, and little is
// read twice.
func TestNewContentFlows(t *testing.T) {
	const blocks, bound = 36 * manifest.BlocksPerExtent, 4 * manifest.BlocksPerExtent
	source, old := newBlocks(1, blocks), newBlocks(1+blocks, blocks)
	clear(source[12*manifest.BlocksPerExtent:])
	clear(old[12*manifest.BlocksPerExtent:])
	for name, trusted := range map[string]bool{"scan": false, "trusted": true} {
		t.Run(name, func(t *testing.T) {
			device := newTape(old, 32*manifest.ExtentSize)
			tuning := transfer.Tuning{Memory: transfer.MinMemory, Defer: bound * manifest.BlockSize, Parts: transfer.PartsOff}
			from := blockio.NewMeter(newTape(source, 1<<40))
			send := transfer.SendSpec{Source: from, Size: device.Size(), Key: key, Tuning: tuning}
			receive := transfer.ReceiveSpec{Target: device, Size: device.Size(), Key: key, Tuning: tuning}
			sink := transfer.SinkSpec{}
			if trusted {
				sink.Trusted, receive.Trusted = knownOf(blocksOf(old)), true
			}
			a, b := pipe(t)
			counted := &deferrals{Conn: b}
			o := run(t.Context(), a, counted, send, sink, receive)
			if err := o.err(); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(device.numbers, source) {
				t.Error("the target differs")
			}
			// Some may also be read again because its answer took too long.
			if again := (from.Counters().ReadBytes - send.Size) / manifest.BlockSize; again > 2*bound {
				t.Errorf("%d blocks were read again, after a bound of %d", again, bound)
			}
			if later := counted.n.Load(); later > bound || !trusted && later < bound/2 {
				t.Errorf("%d blocks were left for later, after a bound of %d", later, bound)
			}
		})
	}
}

// doubled sends two WANTs for one: block 0 later, then what is given.
type doubled struct {
	transfer.Conn
	second []byte
}

func (d doubled) WriteFrame(ctx context.Context, t netproto.Type, payload ...[]byte) error {
	if t != 0x14 {
		return d.Conn.WriteFrame(ctx, t, payload...)
	}
	extent := payload[0][:4]
	later := append(slices.Clone(extent), make([]byte, 16)...)
	later[19] = 1 // block 0
	if err := d.Conn.WriteFrame(ctx, t, later); err != nil {
		return err
	}
	return d.Conn.WriteFrame(ctx, t, append(slices.Clone(extent), d.second...))
}

// TestSecondAnswer: a further WANT is about what the first one left, once.
func TestSecondAnswer(t *testing.T) {
	source := random(manifest.ExtentSize, 1)
	for name, second := range map[string][]byte{
		"another block": {7: 2},
		"later again":   {15: 1},
		"more besides":  {7: 3},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pipe(t)
			o := run(t.Context(), a, doubled{b, second}, transfer.SendSpec{Source: memory(t, source), Size: int64(len(source)), Key: key}, transfer.SinkSpec{},
				transfer.ReceiveSpec{Target: blockio.NewMemory(int64(len(source))), Size: int64(len(source)), Key: key})
			if !errors.Is(o.sendErr, transfer.ErrProtocol) {
				t.Errorf("the sender says %v", o.sendErr)
			}
		})
	}
}

// patient is a baseline of zeroes that does not tell that it is one, so that
// offers are held back.
type patient struct{ transfer.Baseline }

// TestHoldEnds: a block that turns up nowhere does not hold up the comparison of a
// large disk for good.
func TestHoldEnds(t *testing.T) {
	size := int64(1700 * manifest.ExtentSize)
	source := headed{sparse{size: size}, random(manifest.ExtentSize, 1)}
	target := headed{sparse{size: size}, make([]byte, manifest.ExtentSize)}
	content := blockio.NewAllocationMap(size)
	content.Mark(0, manifest.ExtentSize)
	a, b := pipe(t)
	o := run(t.Context(), a, b, transfer.SendSpec{Source: source, Hint: &transfer.Hint{Allocated: content}, Size: size, Key: key}, transfer.SinkSpec{Trusted: patient{transfer.ZeroBaseline(key, size)}},
		transfer.ReceiveSpec{Target: target, Size: size, Key: key, Trusted: true})
	if err := o.err(); err != nil {
		t.Fatal(err)
	}
	if c := o.send.Sinks[0].Counters; c.Sent != manifest.ExtentSize || !bytes.Equal(target.head, source.head) {
		t.Errorf("%d bytes were sent", c.Sent)
	}
}

// lowWater has numbered contents in the first extents of a disk and in the last
// ones, and the map of these.
func lowWater(low, blocks, high int) ([]uint16, *blockio.AllocationMap) {
	numbers := newBlocks(1, blocks)
	clear(numbers[low:high])
	content := blockio.NewAllocationMap(int64(blocks) * manifest.BlockSize)
	content.Mark(0, int64(low)*manifest.BlockSize)
	content.Mark(int64(high)*manifest.BlockSize, int64(blocks-high)*manifest.BlockSize)
	return numbers, content
}

// TestCutsWhileDeferred: wherever the line is cut while content waits to be found,
// what is nowhere at the receiver travels once, but for what the line held: nothing
// that was written before is written again. What had only waited counts as not sent.
func TestCutsWhileDeferred(t *testing.T) {
	const low, high, blocks = 9 * manifest.BlocksPerExtent, 33 * manifest.BlocksPerExtent, 36 * manifest.BlocksPerExtent
	rnd := rand.New(rand.NewPCG(1, 2))
	for n := range 8 {
		disk, content := lowWater(low, blocks, high)
		source := slices.Clone(disk)
		fresh := low/4 + rnd.IntN(low/4)
		copy(source[rnd.IntN(low-fresh):], newBlocks(1+blocks, fresh))
		moved := 1 + rnd.IntN(blocks-high)
		copy(source[rnd.IntN(low-moved):], disk[high:high+moved]) // found ahead
		if n%4 < 2 {
			copy(source[high:], newBlocks(1+2*blocks, moved)) // and then overwritten
		}
		trusted := n%2 == 1
		t.Run(fmt.Sprintf("%d, trusted %v", n, trusted), func(t *testing.T) {
			device := newTape(disk, high*manifest.BlockSize)
			tuning := transfer.Tuning{Memory: transfer.MinMemory, Parts: transfer.PartsOff}
			hint := &transfer.Hint{Allocated: content}
			send := transfer.SendSpec{Source: newTape(source, 1<<40), Hint: hint, Size: device.Size(), Key: key, Tuning: tuning}
			receive := transfer.ReceiveSpec{Target: device, Size: device.Size(), Key: key, Tuning: tuning}
			sink := transfer.SinkSpec{}
			if trusted {
				sink.Trusted, receive.Trusted = knownOf(blocksOf(disk)), true
			} else {
				receive.Hint = hint
			}
			cuts := []int{5 + rnd.IntN(30), 5 + rnd.IntN(30), 5 + rnd.IntN(30)}
			_, sent, again := attempts(t, cuts, send, sink, receive)
			if !slices.Equal(device.numbers, source) {
				t.Error("the target differs")
			}
			needed := int64(nowhere(source, disk, nil)) * manifest.BlockSize
			if sent > needed+again || device.rewritten > 0 {
				t.Errorf("cut after %d frames: %d blocks were sent where %d are nowhere, %d of them again; %d were in place",
					cuts, sent/manifest.BlockSize, needed/manifest.BlockSize, again/manifest.BlockSize, device.rewritten)
			}
		})
	}
}
