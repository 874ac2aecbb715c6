package debian

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Package names one binary package exactly. It is what a lock file keeps.
type Package struct {
	Name         string `json:"package"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
	// Source is the source package, where its name differs; its version is usually the same.
	Source string `json:"source,omitempty"`
	// Size of the archive in bytes.
	Size int64 `json:"size"`
	// SHA256 of the archive, lower-case hex, as in the signed index.
	SHA256 string `json:"sha256"`
}

// maxSize bounds an archive; the largest one in use, linux-image-amd64, has 70 MB.
const maxSize = 1 << 30

// Names, versions and architectures become arguments and file names, so their alphabet is checked (Debian policy §5.6).
var (
	nameForm         = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	versionForm      = regexp.MustCompile(`^[0-9][A-Za-z0-9.+:~-]*$`)
	architectureForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
)

// Check reports what is wrong with the fields.
func (p Package) Check() error {
	digest, err := hex.DecodeString(p.SHA256)
	switch {
	case !nameForm.MatchString(p.Name):
		return fmt.Errorf("debian: %.100q is not a package's name", p.Name)
	case !versionForm.MatchString(p.Version):
		return fmt.Errorf("debian: %s: %.100q is not a version", p.Name, p.Version)
	case !architectureForm.MatchString(p.Architecture):
		return fmt.Errorf("debian: %s: %.100q is not an architecture", p.Name, p.Architecture)
	case err != nil || len(digest) != 32 || strings.ToLower(p.SHA256) != p.SHA256:
		return fmt.Errorf("debian: %s: %.100q is not a SHA-256 in lower-case hex", p.Name, p.SHA256)
	case p.Size <= 0 || p.Size > maxSize:
		return fmt.Errorf("debian: %s: a size of %d bytes; at most %d are expected", p.Name, p.Size, maxSize)
	}
	return nil
}

// file is the archive's name, as apt-get download writes it: the colon of an epoch is escaped.
func (p Package) file() string {
	return p.Name + "_" + strings.ReplaceAll(p.Version, ":", "%3a") + "_" + p.Architecture + ".deb"
}

// maxRecords bounds one answer of apt-cache.
const maxRecords = 64 << 20

// ParseRecords reads the records that apt-cache show prints: fields in lines, records apart by empty lines
// (deb822(5)). Fields that a Package does not have are skipped.
func ParseRecords(text []byte) ([]Package, error) {
	if len(text) > maxRecords {
		return nil, fmt.Errorf("debian: %d bytes of records; at most %d are expected", len(text), maxRecords)
	}
	var packages []Package
	fields := map[string]string{}
	end := func() error {
		if len(fields) == 0 {
			return nil
		}
		p, err := fromFields(fields)
		if err != nil {
			return err
		}
		clear(fields)
		packages = append(packages, p)
		return nil
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "":
			if err := end(); err != nil {
				return nil, err
			}
		case line[0] == ' ' || line[0] == '\t':
			// the rest of a field that is not asked for
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				return nil, fmt.Errorf("debian: a record has the line %.100q, which is no field", line)
			}
			fields[name] = strings.TrimSpace(value)
		}
	}
	return packages, errors.Join(lines.Err(), end())
}

func fromFields(fields map[string]string) (Package, error) {
	source, _, _ := strings.Cut(fields["Source"], " ")
	p := Package{
		Name: fields["Package"], Version: fields["Version"], Architecture: fields["Architecture"],
		Source: source, SHA256: fields["SHA256"],
	}
	size, err := strconv.ParseInt(fields["Size"], 10, 64)
	if err != nil {
		return Package{}, fmt.Errorf("debian: %.100s: its record has the size %.100q", p.Name, fields["Size"])
	}
	p.Size = size
	return p, p.Check()
}
