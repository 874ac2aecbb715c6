package debian_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/image/debian"
)

const record = `Package: libdevmapper1.02.1
Source: lvm2 (2.03.16-2)
Version: 2:1.02.185-2
Installed-Size: 375
Maintainer: Somebody <somebody@example.org>
Architecture: amd64
Depends: libc6 (>= 2.33),
 libselinux1 (>= 3.1~),
	Size: this is a continued line
Description: Linux Kernel Device Mapper userspace library
 Text with a colon: and more.
Filename: pool/main/l/lvm2/x.deb
Size: 132796
SHA256: aaa78ca236055fedccf637eacf7bda02bf1980b2db668dccd202b04d0d2cfe04
`

func TestParseRecords(t *testing.T) {
	want := debian.Package{
		Name: "libdevmapper1.02.1", Version: "2:1.02.185-2", Architecture: "amd64", Source: "lvm2", Size: 132796,
		SHA256: "aaa78ca236055fedccf637eacf7bda02bf1980b2db668dccd202b04d0d2cfe04",
	}
	other := want
	other.Name, other.Source = "other", ""
	text := "\n" + record + "\n\n" + strings.Replace(strings.Replace(record, "libdevmapper1.02.1", "other", 1), "Source: lvm2 (2.03.16-2)\n", "", 1)
	got, err := debian.ParseRecords([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]debian.Package{want, other}, got); diff != "" {
		t.Error(diff)
	}
	if got, err := debian.ParseRecords(nil); err != nil || len(got) != 0 {
		t.Errorf("of nothing: %v, %v", got, err)
	}
}

// Each field becomes an argument, a file's name or a limit, so none is taken as it comes.
func TestParseRecordsRefuses(t *testing.T) {
	for name, change := range map[string][2]string{
		"a name that is an option": {"Package: libdevmapper1.02.1", "Package: -o=Dir::Etc=/tmp"},
		"a name with a path":       {"Package: libdevmapper1.02.1", "Package: ../x"},
		"no name":                  {"Package: libdevmapper1.02.1", "Packet: x"},
		"a version with a path":    {"Version: 2:1.02.185-2", "Version: 1/../2"},
		"no version":               {"Version: 2:1.02.185-2", "Version:"},
		"a strange architecture":   {"Architecture: amd64", "Architecture: amd 64"},
		"no size":                  {"\nSize: 132796", "\nSize: many"},
		"a huge size":              {"\nSize: 132796", "\nSize: 99999999999999"},
		"a negative size":          {"\nSize: 132796", "\nSize: -1"},
		"a short digest":           {"SHA256: aaa7", "SHA256: "},
		"a digest in capitals":     {"SHA256: aaa7", "SHA256: AAA7"},
		"a line without a colon":   {"Installed-Size: 375", "Installed"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(record, change[0], change[1], 1)
			if text == record {
				t.Fatal("the record has no such text")
			}
			if got, err := debian.ParseRecords([]byte(text)); err == nil {
				t.Errorf("accepted as %+v", got)
			}
		})
	}
}

func FuzzParseRecords(f *testing.F) {
	f.Add([]byte(record))
	f.Add([]byte(record + "\n" + record))
	f.Add([]byte("Package: x\n y\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		packages, err := debian.ParseRecords(text)
		if err != nil {
			return
		}
		for _, p := range packages {
			if err := p.Check(); err != nil {
				t.Errorf("accepted, but %v", err)
			}
		}
	})
}
