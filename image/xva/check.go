package xva

import (
	"crypto/sha256"
	"errors"
	"io"
)

// Contents is what an XVA holds.
type Contents struct {
	Name    string // of its VM, the first one when there are several
	Kind    string // other_config's KeyKind; KindDelegateTemplate for appliances, "" for strangers
	Version string // other_config's KeyVersion; "" for strangers
	Objects []Object
	Disks   []DiskInfo
	Bytes   int64             // length of the file
	SHA256  [sha256.Size]byte // of the file, as sha256sum gives it
}

// Check reads a whole XVA and refuses every flaw that would make its import fail, or import something else: missing
// fields, references that lead nowhere, chunks that are missing, out of order, altered or beyond their disk's size, files
// that do not belong there, and a missing end. See Reader for what is accepted and for the errors.
func Check(r io.Reader) (Contents, error) {
	meter := &meter{reader: r}
	sum := sha256.New()
	x, err := NewReader(io.TeeReader(meter, sum))
	if err != nil {
		return Contents{}, err
	}
	for {
		if _, err := x.Next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return Contents{}, err
		}
	}
	contents := Contents{Objects: x.Objects(), Disks: x.Disks(), Bytes: meter.bytes}
	for _, o := range x.Objects() {
		if o.Class == "VM" {
			config := o.Table("other_config")
			contents.Name, contents.Kind, contents.Version = o.Text("name_label"), config[KeyKind], config[KeyVersion]
			break
		}
	}
	copy(contents.SHA256[:], sum.Sum(nil))
	return contents, nil
}

// meter counts what is read.
type meter struct {
	reader io.Reader
	bytes  int64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.reader.Read(p)
	m.bytes += int64(n)
	return n, err
}
