package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestParseList(t *testing.T) {
	const text = `Name                                        ID   Mem VCPUs	State	Time(s)
Domain-0                                     0   640     1     r-----       9.4
11111111-2222-4333-8444-555555555555.7       1   256     1     -b----       2.0
crashed                                      2   256     1     ---sc-       1.0
(null)                                       3     0     1     --ps-d       1.0
off                                          4   256     1     ---s--       1.0
`
	for id, want := range map[int]state{0: running, 1: running, 2: crashed, 3: halted, 4: halted, 5: gone, 256: gone} {
		if got := parseList(text, id); got != want {
			t.Errorf("domain %d: %s, want %s", id, got, want)
		}
	}
}

func TestReadBootLoader(t *testing.T) {
	dir := t.TempDir()
	if _, err := readBootLoader(dir); err == nil {
		t.Error("a folder without a boot loader")
	}
	file := filepath.Join(dir, bootLoader)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]kernel{
		"MZ\x00linux\x00search.fs_label L root\nlinux /vmlinuz quiet console=hvc0\ninitrd /initrd.img\nboot\n\x00": {
			image: filepath.Join(dir, "vmlinuz"), commandLine: "quiet console=hvc0", initramfs: filepath.Join(dir, "initrd.img"),
		},
		"MZ\x00linux initrd": {},
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readBootLoader(dir)
		if got != want || (err == nil) != (want != kernel{}) {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
}

func TestConfigurationQuotes(t *testing.T) {
	if got := setting("extra", `a="b"`); got != `extra="a=\"b\""` {
		t.Error(got)
	}
	if got := list("disk", []string{"a,b", "c"}); got != `disk=["a,b","c"]` {
		t.Error(got)
	}
}

func TestScriptsWantADevice(t *testing.T) {
	var got []string
	script := func(directory, action string) error { got = []string{directory, action}; return nil }
	t.Setenv("XENBUS_PATH", "")
	if err := runScript(script, []string{"add"}); err == nil {
		t.Error("a script ran without a device")
	}
	t.Setenv("XENBUS_PATH", "/local/domain/0/backend/vif/1/0")
	if err := runScript(script, []string{"type_if=vif"}); err == nil {
		t.Error("a script ran without an action")
	}
	if err := runScript(script, []string{"type_if=vif", "online"}); err != nil || len(got) != 2 || got[1] != "online" {
		t.Errorf("%v, %v", got, err)
	}
}
