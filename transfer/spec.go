package transfer

import (
	"context"
	"errors"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
)

// Source is what a transfer reads: a disk, or anything that can be read at
// offsets by several goroutines at once. It does not change while it is read
// (a snapshot).
type Source = blockio.Readable

// Conn is what a transfer needs of a connection; those of netproto have it.
// WriteFrame may be called by several goroutines, ReadFrame by one at a time. A
// transfer closes its connections before it returns.
type Conn interface {
	WriteFrame(ctx context.Context, t netproto.Type, payload ...[]byte) error
	ReadFrame(ctx context.Context) (netproto.Frame, error)
	CloseWithError(code netproto.ErrorCode, message string) error
	Stats() netproto.Stats
	Close() error
}

// Baseline is what is known of a disk's content: a cached manifest, or
// all zeroes. It is used by several goroutines at once.
type Baseline interface {
	// Extents holds the digest of every extent, in order. The zero Digest
	// stands for one that is not known: of what may have been written by a
	// run that ended badly; the sink looks at it. The slice is not changed
	// by the caller.
	Extents() []manifest.Digest
	// Prefetch says that the block digests of these extents will be asked
	// for soon. It does not block.
	Prefetch(extents ...uint32)
	// Blocks returns the block digests of one extent, which is known; it may
	// have to ask for them over the network.
	Blocks(ctx context.Context, extent uint32) ([]manifest.Digest, error)
}

// RecordFunc takes the new block digests of extents that are durable at the
// receiver and that differ from the known manifest, in ascending order; every
// extent below watermark is durable. It is called in order by one goroutine and
// may block: the transfer then waits. The slice is the callee's.
type RecordFunc func(ctx context.Context, watermark uint32, records []manifest.Record) error

// Tuning bounds what a transfer may use. Zero values are defaults.
type Tuning struct {
	// Memory is how many bytes of buffers a transfer may hold at this end;
	// default and at most DefaultMemory, at least MinMemory.
	Memory int64
	// QueueDepth is the number of 1 MiB reads in flight; default 16, less
	// when Memory allows less.
	QueueDepth int
	// Compression is auto (default), on or off.
	Compression Compression
	// Parts is auto (default), on or off; the sender decides.
	Parts Parts
	// Index is how many bytes the index of content that can be copied may
	// take at this end, for all sinks together; default DefaultIndex.
	Index int64
	// Defer is how many bytes of content may wait to be found at the sink
	// before they are sent; default DefaultDefer, a quarter when Memory is
	// scarce; less than 0 is none.
	Defer int64
}

// Memory bounds of one end of one transfer, in bytes of buffers.
const (
	DefaultMemory = 48 << 20
	MinMemory     = 12 << 20
)

// Compression says when blocks are compressed on the wire.
type Compression string

// CompressionAuto compresses while the line is slower than the compressor.
const (
	CompressionAuto Compression = "auto"
	CompressionOn   Compression = "on"
	CompressionOff  Compression = "off"
)

// SendSpec says what to send where.
type SendSpec struct {
	Source Source
	Hint   *Hint // optional: what of the source need not be read
	Size   int64 // logical size in bytes
	Key    manifest.Key
	Sinks  []SinkSpec // 1..MaxSinks; the source is read and hashed once for all
	// Known, when set, is the cached manifest against which a disk's
	// records and root are reported; nil reports every extent.
	Known []manifest.Digest
	// Root, when set, goes on from an earlier attempt; see Resuming.
	Root *manifest.RootHasher
	Tuning
	Progress *Progress // optional; counts reading and hashing
}

// MaxSinks is how many sinks one read pass may feed.
const MaxSinks = 8

// SinkSpec is the sender's side of one sink.
type SinkSpec struct {
	Conn Conn
	// Task is the name that both ends were told; 1..64 bytes.
	Task string
	// Trusted, when set, is the sink's content: the sink is not scanned.
	// nil means that the sink scans itself (untrusted).
	Trusted Baseline
	// Start is the first extent to send; see Resuming.
	Start uint32
	// Sent is that of the attempt before, to count what is sent again.
	Sent map[uint32]uint64
	// Records, when set, takes what became durable at this sink.
	Records  RecordFunc
	Progress *Progress // optional; counts verdicts and the line
}

// SendResult is what a sender knows at the end.
type SendResult struct {
	// Root is that of the source over the logical size; zero when the sinks
	// start further on and no Root came with the spec.
	Root  manifest.Digest
	Sinks []SinkResult // one for each sink of the spec, in its order
	Hint  HintResult
}

// SinkResult is the outcome for one sink. A sink that failed does not stop the
// others.
type SinkResult struct {
	Err error
	// Result is the digest over all that was offered, equal on both ends.
	Result   manifest.Digest
	Counters Counters
	// Watermark is the extent from which another attempt can go on: what lies
	// below is durable at the sink, and its records were taken.
	Watermark uint32
	// Sent has the blocks that were sent of each extent beyond the watermark.
	Sent map[uint32]uint64
	// Reached bounds what this attempt may have changed at the sink: nothing at
	// or above this extent was offered.
	Reached uint32
}

// ReceiveSpec is the receiver's side.
type ReceiveSpec struct {
	Conn   Conn
	Task   string
	Target blockio.Device
	Hint   *Hint // optional: what of the target its scan need not read
	Size   int64 // logical size; at most the target's size
	Key    manifest.Key
	// Trusted says that the sender was given this target's manifest, so
	// that the target is not scanned.
	Trusted bool
	// Start is the last extent at which the sender may start: all below is
	// settled and durable here. See Resuming.
	Start uint32
	// Resumed says that an attempt before this one may have written beyond Start.
	Resumed bool
	Root    *manifest.RootHasher // as in SendSpec; of an untrusted receiver
	// Known and Records report from this end, as in SendSpec and SinkSpec.
	// Only an untrusted receiver can: a trusted one does not know the
	// digests of blocks that did not change.
	Known   []manifest.Digest
	Records RecordFunc
	// Seeds are disks at this end that may hold some of the content: what
	// one holds is copied and does not travel. At most MaxSeeds. Each is
	// read once as a whole, with up to half of Tuning.Memory, as soon as
	// something is missing that it does not hold at the same place, unless its
	// digests are known.
	Seeds []Seed
	Tuning
	Progress *Progress
}

// Seed is a disk that does not change while it is read.
type Seed struct {
	Source Source
	Size   int64 // of its content in bytes; at most the source's
	// Digests, when set, are those of its content under the transfer's key.
	Digests manifest.View
}

// MaxSeeds is how many seeds one receiver may have.
const MaxSeeds = 4

// ReceiveResult is what a receiver knows at the end.
type ReceiveResult struct {
	Trusted bool
	Result  manifest.Digest
	// Root is that of the target as verified; zero when trusted, or when Start
	// is further on and no Root came with the spec.
	Root     manifest.Digest
	Counters Counters
	Hint     HintResult
	// Watermark is what the next attempt may have as its Start.
	Watermark uint32
	Reached   uint32 // as in SinkResult: nothing at or above it was written
	// Agreed says that the target has the sender's content, durably, and the
	// sender's digest over all that was offered is this end's. An error that
	// comes then is that the sender was maybe not told.
	Agreed bool
}

// ScanResult is what a scan found.
type ScanResult struct {
	Root manifest.Digest
	Hint HintResult
}

// ScanSpec reads and hashes one disk and sends nothing.
type ScanSpec struct {
	Source  Source
	Hint    *Hint // optional: what of it need not be read
	Size    int64
	Key     manifest.Key
	Known   []manifest.Digest
	Records RecordFunc // extents that differ from Known; watermark: read so far
	Start   uint32     // first extent to read; when it is not 0 there is no root
	Tuning
	Progress *Progress
}

// CopySpec copies a disk inside one process, by the same engine.
type CopySpec struct {
	Source  Source
	Hint    *Hint // optional: what of the source need not be read
	Target  blockio.Device
	Size    int64
	Key     manifest.Key
	Trusted Baseline
	Known   []manifest.Digest
	Records RecordFunc
	Start   uint32 // first extent to copy; when it is not 0 there is no root
	Resumed bool   // as in ReceiveSpec
	Tuning
	Progress *Progress
}

// Errors a caller decides on.
var (
	// ErrProtocol is a message that breaks the protocol: a bug or an attack.
	ErrProtocol = errors.New("transfer: protocol violation")
	// ErrMismatch is content that is not what its digest says.
	ErrMismatch = errors.New("transfer: content does not match its digest")
	// ErrTask is a peer that was told of another task, key or size.
	ErrTask = errors.New("transfer: the two ends were told different things")
	// ErrCut is a connection that was lost: both ends may be well, and another
	// attempt can go on from the watermark.
	ErrCut = errors.New("transfer: the connection was cut")
	// ErrDefect is a panic.
	ErrDefect = errors.New("transfer: a defect of this program")
	// ErrTargetTooSmall is a target smaller than the logical size.
	ErrTargetTooSmall = errors.New("transfer: target is smaller than the logical size")
)

// Codes of the ERROR frames that a transfer sends besides netproto's.
const (
	CodeFailed      netproto.ErrorCode = netproto.FirstApplicationCode + iota // this end could not go on
	CodeTask                                                                  // ErrTask
	CodeMismatch                                                              // ErrMismatch
	CodeInterrupted                                                           // ErrCut: another connection may go on
)
