package bench_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/netproto/line"
	"github.com/understudy-dr/understudy/orchestrator/cli/bench"
	"github.com/understudy-dr/understudy/transfer"
)

// endArgument has the test's own program run one end.
const endArgument = "bench-end"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == endArgument {
		if err := bench.End(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// options measures two images in a fresh folder. The page cache is used, since it may lie in memory.
func options(t *testing.T, source, target []byte) bench.Options {
	t.Helper()
	t.Setenv("GORACE", "atexit_sleep_ms=0") // else each end takes a second under the race detector
	dir := t.TempDir()
	o := bench.Options{
		Program: []string{os.Args[0], endArgument}, Buffered: true, Stderr: t.Output(),
		Source: filepath.Join(dir, "source"), Target: filepath.Join(dir, "target"),
	}
	for path, content := range map[string][]byte{o.Source: source, o.Target: target} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// noise is bytes that neither compress nor repeat.
func noise(n int, seed uint64) []byte {
	p := make([]byte, n)
	var key [32]byte
	key[0] = byte(seed)
	_, _ = rand.NewChaCha8(key).Read(p) // never fails
	return p
}

func TestRunMakesTheTargetEqualAndCounts(t *testing.T) {
	const size = 24<<20 + 4711 // not a multiple of anything
	source := noise(size, 1)
	clear(source[5<<20 : 7<<20])
	target := bytes.Clone(source)
	copy(target[9<<20:], noise(3<<20, 2))
	for _, trust := range []bool{false, true} {
		t.Run(fmt.Sprintf("trust %v", trust), func(t *testing.T) {
			o := options(t, source, target)
			o.Trust = trust
			row, err := bench.Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(content(t, o.Target), source) {
				t.Error("the target differs from the source")
			}
			if !bytes.Equal(content(t, o.Source), source) {
				t.Error("the source was changed")
			}
			read, name := int64(2*size), "untrusted"
			if trust {
				read, name = size, "trusted"
			}
			// Blocks that travelled may be read once more than the scan does.
			if row.Case != name+"/loopback" || row.Tool != "understudy" || row.ReadBytes < read || row.ReadBytes > read+8<<20 {
				t.Errorf("row %+v: want case %s and about %d bytes read", row, name, read)
			}
			if row.WireBytes < 3<<20 || row.WireBytes > 5<<20 {
				t.Errorf("3 MiB of noise took %d bytes on the wire", row.WireBytes)
			}
			if row.Wall <= 0 || row.CPU <= 0 || row.PeakRSS < 4<<20 || !strings.Contains(row.Note, "sent 3.0 MiB") || !strings.Contains(row.Note, "raw 3.0 MiB; source ") {
				t.Errorf("row %+v", row)
			}
		})
	}
}

func TestRunOverALine(t *testing.T) {
	image := noise(6<<20, 9)
	o := options(t, image, make([]byte, len(image)))
	apart := o.Source + "'s second name"
	if err := os.Rename(o.Source, apart); err != nil {
		t.Fatal(err)
	}
	o.Source = apart
	o.Line = &line.Spec{Rate: 4 << 20, RTT: 20 * time.Millisecond}
	o.Trust = true
	row, err := bench.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content(t, o.Target), image) {
		t.Error("the target differs from the source")
	}
	if row.Wall < 1.5 || row.Case != "trusted/33.554432mbit-20ms" || !row.SameWork || row.Allowed != 1 {
		t.Errorf("row %+v: 6 MiB of noise at 4 MiB/s take a second and a half", row)
	}
	if row.LineShare < 0.5 || row.LineShare > 1.02 || !strings.Contains(row.Note, " % of the line while data flowed, ") {
		t.Errorf("row %+v: the line was full, more or less", row)
	}
	want := fmt.Sprintf("understudy bench --source '%s' --target %s --trust --buffered --line 33.554432mbit,20ms", strings.ReplaceAll(o.Source, "'", `'\''`), o.Target)
	if row.Command != want {
		t.Errorf("command %q, want %q", row.Command, want)
	}
}

// TestPartsAreForced: a page written in each of many blocks travels alone.
func TestPartsAreForced(t *testing.T) {
	source := noise(16<<20, 9)
	target := bytes.Clone(source)
	for off := 4 << 10; off < len(target); off += 64 << 10 {
		target[off] ^= 1
	}
	o := options(t, source, target)
	o.Parts, o.Compression = transfer.PartsOn, transfer.CompressionOff
	row, err := bench.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content(t, o.Target), source) || !strings.Contains(row.Note, "sent 1.0 MiB, spared 15 MiB") || !strings.HasSuffix(row.Command, " --compression off --parts on") {
		t.Errorf("row %+v", row)
	}
}

func TestUnchangedTrustedReadsTheSourceAlone(t *testing.T) {
	image := noise(16<<20, 3)
	o := options(t, image, image)
	o.Trust = true
	row, err := bench.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if row.ReadBytes != 16<<20 || row.WireBytes > 64<<10 {
		t.Errorf("row %+v: want 16 MiB read and next to nothing on the wire", row)
	}
}

func TestRunLeavesTheRestOfALargerTargetAlone(t *testing.T) {
	source, target := noise(6<<20, 4), noise(9<<20, 5)
	o := options(t, source, target)
	if _, err := bench.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got := content(t, o.Target); !bytes.Equal(got[:6<<20], source) || !bytes.Equal(got[6<<20:], target[6<<20:]) {
		t.Error("the target is wrong, or was written beyond the source's size")
	}
}

func TestRunRefusesBeforeItWrites(t *testing.T) {
	image := noise(1<<20, 6)
	for name, spoil := range map[string]func(t *testing.T, o *bench.Options){
		"compression": func(_ *testing.T, o *bench.Options) { o.Compression = "lzma" },
		"parts":       func(_ *testing.T, o *bench.Options) { o.Parts = "halves" },
		"same file":   func(_ *testing.T, o *bench.Options) { o.Target = o.Source },
		"link to the source": func(t *testing.T, o *bench.Options) {
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(o.Source, link); err != nil {
				t.Fatal(err)
			}
			o.Target = link
		},
		"second name of the source": func(t *testing.T, o *bench.Options) {
			link := o.Source + ".again"
			if err := os.Link(o.Source, link); err != nil {
				t.Fatal(err)
			}
			o.Target = link
		},
		"missing source":  func(_ *testing.T, o *bench.Options) { o.Source += ".not" },
		"missing target":  func(_ *testing.T, o *bench.Options) { o.Target += ".not" },
		"folder":          func(_ *testing.T, o *bench.Options) { o.Target = filepath.Dir(o.Target) },
		"no block device": func(_ *testing.T, o *bench.Options) { o.Source = "/dev/zero" },
		"target too small": func(t *testing.T, o *bench.Options) {
			if err := os.Truncate(o.Target, 1<<20-1); err != nil {
				t.Fatal(err)
			}
		},
		"empty source": func(t *testing.T, o *bench.Options) {
			if err := os.Truncate(o.Source, 0); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t, image, make([]byte, 1<<20))
			path := o.Target
			spoil(t, &o)
			_, err := bench.Run(t.Context(), o)
			if !errors.Is(err, bench.ErrRefused) {
				t.Fatalf("error %v, want ErrRefused", err)
			}
			if got := content(t, path); !bytes.Equal(got, make([]byte, len(got))) {
				t.Error("the target was written")
			}
			if name != "missing source" && name != "no block device" && name != "empty source" && !bytes.Equal(content(t, filepath.Join(filepath.Dir(path), "source")), image) {
				t.Error("the source was written")
			}
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	o := options(t, noise(64<<20, 7), make([]byte, 64<<20))
	ctx, cancel := context.WithCancel(t.Context())
	began := time.Now()
	time.AfterFunc(30*time.Millisecond, cancel)
	_, err := bench.Run(ctx, o)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v to stop", took)
	}
}

func TestRunReportsAnEndThatDoesNotWork(t *testing.T) {
	o := options(t, noise(1<<20, 8), make([]byte, 1<<20))
	o.Program = []string{"/bin/sh", "-c", "exit 3"}
	if _, err := bench.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "receiver") {
		t.Errorf("error %v, want one that names the receiver", err)
	}
}

func TestEndRefusesAnOrderThatIsNone(t *testing.T) {
	for _, stdin := range []string{"", "nonsense", `{"role":`} {
		if err := bench.End(t.Context(), strings.NewReader(stdin), io.Discard); err == nil {
			t.Errorf("an order of %q is taken", stdin)
		}
	}
	var out bytes.Buffer
	if err := bench.End(t.Context(), strings.NewReader(`{"role":"sender","path":"/nonexistent","key":"AA=="}`), &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `"error":`) {
		t.Errorf("answer %s, want an error", out.String())
	}
}
