package main_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What needs packages is tested in package image; here is what a person types wrongly.
func TestUsage(t *testing.T) {
	program := filepath.Join(t.TempDir(), "mkimage")
	if said, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "go.mod"), []byte("module example.org/product\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		dir       string
		arguments []string
		code      int
		want      string
	}{
		"help":           {source, []string{"--help"}, 0, "-kernel"},
		"unknown flag":   {source, []string{"--disk"}, 2, "-disk"},
		"too much":       {source, []string{"image"}, 2, `"image" is not understood`},
		"unknown kernel": {source, []string{"--kernel", "best"}, 1, "debian and slim"},
		"no version":     {source, nil, 1, "VERSION"},
		"no source":      {t.TempDir(), nil, 1, "in no Go module"},
		"slim, no lock":  {source, []string{"--kernel", "slim"}, 1, "make image-lock"},
	} {
		t.Run(name, func(t *testing.T) {
			command := exec.Command(program, test.arguments...)
			command.Dir = test.dir
			command.Env = append(os.Environ(), "UNDERSTUDY_CACHE="+t.TempDir())
			said, err := command.CombinedOutput()
			code := 0
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				code = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if code != test.code || !strings.Contains(string(said), test.want) {
				t.Errorf("exit code %d, want %d; it said %q, want %q", code, test.code, said, test.want)
			}
		})
	}
}
