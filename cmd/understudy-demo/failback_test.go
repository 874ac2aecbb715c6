package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestFailbackStory tells the whole story, on small disks.
func TestFailbackStory(t *testing.T) {
	t.Setenv("UNDERSTUDY_STATE_DIR", "") // the story sets both
	t.Setenv("UNDERSTUDY_KEY_FILE", "")
	var out, complaints bytes.Buffer
	if code := run(t.Context(), []string{"--story", "failback", "--disk-size", "64MiB"}, &out, &complaints); code != exitEqual {
		t.Fatalf("exit code %d\n%s\n%s", code, out.String(), complaints.String())
	}
	at := 0
	for _, want := range []string{
		"$ understudy job create nightly", "$ understudy job check nightly", "$ understudy job run nightly", "$ understudy replica failover web",
		"suspended", "$ understudy job reverse nightly", "$ understudy job run 'nightly (reverse)'", "$ understudy replica failback web",
		"disk 1: 16 MiB are equal", "of pool a is Running", "letters.txt",
	} {
		next := strings.Index(out.String()[at:], want)
		if next < 0 {
			t.Fatalf("after %d bytes there is no %q:\n%s", at, want, out.String())
		}
		at += next
	}
	if code := run(t.Context(), []string{"--story", "failback", "--world", "qemu"}, &out, &complaints); code != exitUsage {
		t.Errorf("in another world: exit code %d", code)
	}
}
