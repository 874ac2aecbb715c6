package peers

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestField(t *testing.T) {
	devices := []byte("Inter-|   Receive  |  Transmit\n face |bytes packets\n  eth0: 1 2 3 4 5 6 7 8 9 10\n    lo: 11 12 13 14 15 16 17 18 19 20\n")
	if n, err := field(devices, "lo:", 8); err != nil || n != 19 {
		t.Errorf("%d, %v", n, err)
	}
	for _, bad := range []string{"", "lo: 1 2", "lo: a b c d e f g h i"} {
		if _, err := field([]byte(bad), "lo:", 8); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func TestTyped(t *testing.T) {
	got := typed([]string{"/a/b/tool", "plain", "a b", "nbd://x?y", "it's", ""})
	if want := `tool plain 'a b' 'nbd://x?y' 'it'\''s' ''`; got != want {
		t.Errorf("%s, not %s", got, want)
	}
}

func TestListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if up, err := listens(port); err != nil || !up {
		t.Errorf("a listener: %v, %v", up, err)
	}
	l.Close()
	if up, err := listens(port); err != nil || up {
		t.Errorf("no listener: %v, %v", up, err)
	}
}

func TestDescendantsOfDescendants(t *testing.T) {
	c := exec.Command("sh", "-c", "cat & cat; wait")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // the second cat runs
		t.Fatal(err)
	}
	below := descendants(os.Getpid())
	if !below[c.Process.Pid] || len(descendants(c.Process.Pid)) == 0 {
		t.Errorf("below this process: %v", below)
	}
	if peakOfChildren() == 0 {
		t.Error("they take no memory")
	}
	in.Close()
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
}

// folder has a source and an empty target, on a file system with direct I/O: /tmp often has none.
func folder(t *testing.T) (Job, []byte) {
	t.Helper()
	dir, err := os.MkdirTemp(".", "direct-*.tmp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if dir, err = filepath.Abs(dir); err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("content of a disk "), 300_000)
	err = errors.Join(os.WriteFile(filepath.Join(dir, "source"), content, 0o600), os.WriteFile(filepath.Join(dir, "target"), nil, 0o600),
		os.Truncate(filepath.Join(dir, "target"), int64(len(content))))
	if err != nil {
		t.Fatal(err)
	}
	return Job{Dir: dir, Source: "source", Target: "target", Line: Loopback()}, content
}

func TestLimitCopiesAndReads(t *testing.T) {
	j, content := folder(t)
	source, target := filepath.Join(j.Dir, j.Source), filepath.Join(j.Dir, j.Target)
	if err := RunLimit(t.Context(), []string{"copy", source, target}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(target); err != nil || !bytes.Equal(got, content) {
		t.Errorf("another content: %v", err)
	}
	if err := RunLimit(t.Context(), []string{"read", source, target}); err != nil {
		t.Error(err)
	}
	if err := RunLimit(t.Context(), []string{"read", source, "none"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := RunLimit(t.Context(), []string{"copy", source}); err == nil {
		t.Error("copy without a target")
	}
}

func TestMeasuresCommands(t *testing.T) {
	j, _ := folder(t)
	worker := func(script string) Tool {
		return measured("sh", true, "nothing", func(Job) (commands, error) {
			return commands{client: func(int) []string { return []string{"sh", "-c", script} }}, nil
		})
	}
	row, err := worker("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done").Run(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	if row.Wall <= 0 || row.CPU <= 0.01 || row.PeakRSS <= 0 || row.WireBytes != 0 || row.Tool != "sh" || !row.SameWork || !strings.HasPrefix(row.Command, "sh -c 'i=0;") {
		t.Errorf("row %+v", row)
	}
	if _, err := worker("echo gone wrong; exit 3").Run(t.Context(), j); err == nil || !strings.Contains(err.Error(), "gone wrong") {
		t.Errorf("a failure: %v", err)
	}
}

func TestThin(t *testing.T) {
	l, err := Thin("100mbit,100ms")
	if err != nil || l.Name != "100mbit-100ms" || l.Spec.Rate != 12_500_000 {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err := Thin("fast"); err == nil {
		t.Error("a line without a rate is taken")
	}
}

// A loopback device of one's own has carried nothing yet, and the processes started there use it.
func TestAlone(t *testing.T) {
	err := errors.New("not called")
	_, failed := alone(func() error {
		before, err1 := readCounters()
		out, err2 := exec.Command("readlink", "/proc/self/ns/net").Output()
		mine, err3 := os.Readlink("/proc/thread-self/ns/net")
		if err = errors.Join(err1, err2, err3); err == nil && strings.TrimSpace(string(out)) != mine {
			err = errors.New("a child is in another namespace")
		}
		if all, _ := os.Readlink("/proc/self/ns/net"); all != mine && before.loopback != 0 {
			err = errors.New("its loopback device has been used")
		}
		return err
	})
	if err != nil || failed != nil {
		t.Error(err, failed)
	}
	if _, err := alone(func() error { return os.ErrClosed }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("error %v", err)
	}
}
