package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/understudy-dr/understudy/image/xva"
	"github.com/understudy-dr/understudy/orchestrator/cli"
	"github.com/understudy-dr/understudy/qemu-tests/worlds"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// scripts numbers the networks of scripts, from anywhere, since tests of other packages may run at the same time.
var scripts atomic.Uint32

func init() { scripts.Store(uint32(os.Getpid())) }

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"understudy": func() { os.Exit(cli.Main(context.Background(), "1.2.3-test", os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs testdata/script. A script has two simulated pools, a and b, of its own: their addresses and fingerprints are in
// $A, $A_FINGERPRINT, $B and $B_FINGERPRINT, and the password is 'secret'. Pool a has the VMs web, of two disks, and twice 'twin'.
func TestScripts(t *testing.T) {
	abd := filepath.Join(t.TempDir(), "abd")
	build := exec.Command("go", "build", "-o", abd, "github.com/understudy-dr/understudy/cmd/abd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build abd: %v\n%s", err, out)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each command takes a second under the race detector
			env.Setenv("UNDERSTUDY_STATE_DIR", filepath.Join(env.WorkDir, "state"))
			env.Setenv("UNDERSTUDY_KEY_FILE", filepath.Join(env.WorkDir, "key"))
			third := scripts.Add(1) // scripts run at the same time
			for n, name := range []string{"a", "b"} {
				pool, err := newPool(name, filepath.Join(env.WorkDir, "pool-"+name), abd)
				if err != nil {
					return err
				}
				env.Defer(pool.Close)
				env.Values[name] = pool
				env.Setenv(strings.ToUpper(name), pool.Address())
				env.Setenv(strings.ToUpper(name)+"_FINGERPRINT", pool.Fingerprint())
				network := "127." + strconv.Itoa(60+n) + "." + strconv.Itoa(1+int(third)%250)
				env.Setenv(strings.ToUpper(name)+"_NETWORK", network)
				env.Setenv(strings.ToUpper(name)+"_RANGE", network+".0/24")
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"await":  await,
			"exits":  exits,
			"keys":   keys,
			"image":  image,
			"scribe": scribe,
			"halt":   halt,
			"take":   take,
			"xva":    writeXVA,
		},
	})
}

func newPool(name, dir, abd string) (*xapisim.Pool, error) {
	pool, err := xapisim.New(xapisim.Config{
		Name: name, Dir: dir, Hosts: 2, Password: "secret", AuthDelay: time.Millisecond,
		SRs:   []xapisim.SRConfig{{Name: "shared", Shared: true}, {Name: "spare", Shared: true}},
		World: worlds.NewProcess(abd, filepath.Join(dir, "guests")),
	})
	if err != nil {
		return nil, err
	}
	disks := []xapisim.DiskConfig{{Size: 16 << 20}, {Size: 8 << 20}}
	for _, vm := range []xapisim.VMConfig{{Name: "web", Disks: disks}, {Name: "twin"}, {Name: "twin"}} {
		if name == "a" {
			if _, err := pool.AddVM(vm); err != nil {
				pool.Close()
				return nil, err
			}
		}
	}
	if _, err := pool.AddDelegateTemplate("shared", "1.0"); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// exits CODE PROGRAM ARGS… runs a program that must end with this exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s ends with exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// await TEXT PROGRAM ARGS… runs a program again and again until its standard output holds a text.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await TEXT PROGRAM ARGS…")
	}
	for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(50 * time.Millisecond) {
		ts.Check(ts.Exec(args[1], args[2:]...))
		if strings.Contains(ts.ReadFile("stdout"), args[0]) {
			return
		}
	}
	ts.Fatalf("%s never says %q", strings.Join(args[1:], " "), args[0])
}

// keys NAME… demands that standard output was one JSON object with exactly these members, or a list of such objects.
func keys(ts *testscript.TestScript, neg bool, want []string) {
	decoder := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	var document any
	ts.Check(decoder.Decode(&document))
	if err := decoder.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		ts.Fatalf("there is more than one document on standard output: %v", err)
	}
	objects, isList := document.([]any)
	if !isList {
		objects = []any{document}
	}
	if isList && len(objects) == 0 && len(want) > 0 {
		ts.Fatalf("the list is empty")
	}
	slices.Sort(want)
	for _, o := range objects {
		object, ok := o.(map[string]any)
		if !ok {
			ts.Fatalf("%v is no object", o)
		}
		if got := slices.Sorted(maps.Keys(object)); slices.Equal(got, want) == neg {
			ts.Fatalf("the members are %v, want %v", got, want)
		}
	}
}

// take VARIABLE MEMBER sets a variable of the environment to a text in the JSON object, or the first of the list, on standard output.
func take(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: take VARIABLE MEMBER")
	}
	text := strings.TrimSpace(ts.ReadFile("stdout"))
	if !strings.HasPrefix(text, "[") {
		text = "[" + text + "]"
	}
	var documents []map[string]any
	ts.Check(json.Unmarshal([]byte(text), &documents))
	if len(documents) == 0 {
		ts.Fatalf("the list is empty")
	}
	value, ok := documents[0][args[1]].(string)
	if !ok {
		ts.Fatalf("the member %s is %v, no text", args[1], documents[0][args[1]])
	}
	ts.Setenv(args[0], value)
}

// image FILE SIZE SEED makes a file of noise; the same seed gives the same beginning. Seed 0 gives zeroes.
func image(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: image FILE SIZE SEED")
	}
	size, err := strconv.Atoi(args[1])
	ts.Check(err)
	seed, err := strconv.ParseUint(args[2], 10, 8)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), noise(size, byte(seed)), 0o600))
}

// writeXVA makes an image of a delegate: xva FILE VERSION.
func writeXVA(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: xva FILE VERSION")
	}
	disk := noise(4<<20, 1)
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	err = xva.Write(f, xva.Appliance{
		Name: "delegate", Version: args[1], Memory: 256 << 20, VCPUs: 1,
		Disk: xva.Disk{Name: "boot", Size: int64(len(disk)), Content: bytes.NewReader(disk)},
	})
	ts.Check(errors.Join(err, f.Close()))
}

// halt POOL ends a pool: it answers no more.
func halt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: halt POOL")
	}
	pool, ok := ts.Value(args[0]).(*xapisim.Pool)
	if !ok {
		ts.Fatalf("there is no pool %s", args[0])
	}
	pool.Close()
}

// scribe POOL OFFSET SEED overwrites 64 KiB of every disk file of a pool, behind the back of everybody.
func scribe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: scribe POOL OFFSET SEED")
	}
	offset, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	seed, err := strconv.ParseUint(args[2], 10, 8)
	ts.Check(err)
	files, err := filepath.Glob(filepath.Join(ts.Getenv("WORK"), "pool-"+args[0], "*", "*.raw"))
	ts.Check(err)
	for _, path := range files {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		ts.Check(err)
		_, err = f.WriteAt(noise(64<<10, byte(seed)), offset)
		ts.Check(errors.Join(err, f.Close()))
	}
}

func TestACommandEndsSoonAfterItsContext(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	began := time.Now()
	code := cli.Main(ctx, "test", []string{"pool", "add", "a", "--address", silent.Addr().String(), "--username", "root", "--trust-first-use"}, io.Discard, t.Output())
	if took := time.Since(began); code != 130 || took > 1100*time.Millisecond {
		t.Errorf("exit code %d after %v, want 130 within a second", code, took)
	}
}
