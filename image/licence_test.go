package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestModuleLicence(t *testing.T) {
	for sentence, want := range map[string]string{
		"Apache License\n   Version 2.0, January 2004":                                                                                                       "Apache-2.0",
		"The MIT License\n\nPermission is hereby granted, free of charge,\nto any person obtaining a copy":                                                   "MIT",
		"Redistributions in binary form must reproduce the above\ncopyright notice … may be used to endorse or promote\nproducts derived from this software": "BSD-3-Clause",
		"Redistributions in binary form must reproduce the above copyright notice":                                                                           "BSD-2-Clause",
		"Mozilla Public License Version 2.0":                                                                                                                 "MPL-2.0",
		"Creative Commons CC0 1.0 Universal":                                                                                                                 "CC0-1.0",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "LICENSE.md"), []byte("Copyright somebody\n"+sentence), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := moduleLicence(dir); err != nil || got != want {
			t.Errorf("%q is %s, %v", sentence, got, err)
		}
	}
	if got, err := moduleLicence(t.TempDir()); err == nil || !strings.Contains(err.Error(), "licence.go") {
		t.Errorf("of no licence: %q, %v", got, err)
	}
}

func TestDebianLicence(t *testing.T) {
	for text, want := range map[string]string{
		"Format: 1.0\n\nFiles: *\nLicense: GPL-2\n":                               "GPL-2",
		"Files: a b\nLicense: X\n\nFiles: debian/* *\nCopyright: y\nLicense: Z\n": "Z",
		"Files: *\nCopyright: y\n\nLicense: Z\n":                                  "",
		"Old style text.\n":                                                       "",
	} {
		if got, err := debianLicence([]byte(text)); got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v", text, got, err)
		}
	}
}

func TestBudgets(t *testing.T) {
	within := []Budget{{Name: "kernel", Bytes: 1 << 40}, {Name: "initramfs", Bytes: 6 * mib, Limit: 6 * mib}}
	if err := check(within); err != nil {
		t.Error(err)
	}
	err := check(append(within, Budget{Name: "XVA", Bytes: 25 * mib, Limit: 24 * mib}, Budget{Name: "other", Bytes: 2, Limit: 1}))
	if err == nil || !strings.Contains(err.Error(), "XVA has 26214400 bytes; the budget is 25165824") || !strings.Contains(err.Error(), "other") {
		t.Errorf("the error is %v", err)
	}
	var table strings.Builder
	if err := Table(&table, within); err != nil || !strings.Contains(table.String(), "6.00 MiB  6.00 MiB at most  initramfs") {
		t.Errorf("%v:\n%s", err, &table)
	}
}
