package image

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/image/debian"
)

// debianComponent describes a package from its unpacked tree.
func debianComponent(tree string, p debian.Package) (Component, error) {
	text, err := os.ReadFile(filepath.Join(tree, "usr/share/doc", p.Name, "copyright"))
	if err != nil {
		return Component{}, fmt.Errorf("image: the licence of %s: %w", p.Name, err)
	}
	licence, err := debianLicence(text)
	if err != nil {
		return Component{}, fmt.Errorf("image: the licence of %s: %w", p.Name, err)
	}
	return Component{Name: p.Name, Version: p.Version, Licence: licence, Kind: "debian", Source: p.Source, Digest: "sha256:" + p.SHA256}, nil
}

// debianLicence reads the licence of the package as a whole from its copyright file: the one of the paragraph for all
// files ('Files: *'), in the machine-readable form (copyright-format 1.0).
func debianLicence(text []byte) (string, error) {
	all := false
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch {
		case lines.Text() == "":
			all = false
		case field == "Files":
			all = slices.Contains(strings.Fields(value), "*")
		case field == "License" && all && value != "":
			return value, nil
		}
	}
	return "", fmt.Errorf("its copyright file names none for all files (%v)", lines.Err())
}

// licences are told by a sentence that only they have; the order matters where one contains the other.
var licences = []struct{ name, sentence string }{
	{"Apache-2.0", "Apache License Version 2.0"},
	{"MPL-2.0", "Mozilla Public License Version 2.0"},
	{"CC0-1.0", "CC0 1.0 Universal"},
	{"MIT", "Permission is hereby granted, free of charge, to any person obtaining a copy"},
	{"ISC", "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee"},
	{"BSD-3-Clause", "may be used to endorse or promote products derived from this software"},
	{"BSD-2-Clause", "Redistributions in binary form must reproduce the above copyright notice"},
}

// moduleLicence tells the licence of a Go module from the file in its root. One that is not known is an error: a person
// has to read it before it ships.
func moduleLicence(dir string) (string, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("image: a module's licence: %w", err)
	}
	for _, file := range files {
		name, _, _ := strings.Cut(strings.ToLower(file.Name()), ".")
		if file.IsDir() || name != "license" && name != "licence" && name != "copying" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if err != nil {
			return "", fmt.Errorf("image: a module's licence: %w", err)
		}
		plain := strings.Join(strings.Fields(string(text)), " ")
		for _, l := range licences {
			if strings.Contains(plain, l.sentence) {
				return l.name, nil
			}
		}
	}
	return "", fmt.Errorf("image: %s has no licence file that is understood; read it, and teach image/licence.go", dir)
}
