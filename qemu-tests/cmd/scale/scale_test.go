package main_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSmallScale runs the program, which judges itself, on a disk of 64 GiB. It is built anew: the race detector, which the test may
// run under, takes memory.
func TestSmallScale(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "scale")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), program, "--size", "68719476736", "--data", "256", "--folder", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := strings.Count(string(out), "peak"); n != 4 {
		t.Errorf("%d ends, want 4:\n%s", n, out)
	}
}
