package delegate

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/image/xva"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/placement"
)

// image is a delegate's image in a file, checked as a whole.
type image struct {
	*os.File
	version string
	bytes   int64  // of the file
	disk    int64  // of the one disk, virtual
	sum     string // SHA-256 of the file, hexadecimal
}

// imageVersion is what a version may look like: it goes into names, and ':' separates the parts of an identity.
var imageVersion = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

// openImage opens an image and reads it to its end, so that nothing is uploaded that a pool could not make a delegate of. Close it.
// An ErrImage says what is wrong.
func openImage(path string) (*image, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the delegate's image: %w", err)
	}
	checked, err := checkImage(file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("image %s: %w", path, err), file.Close())
	}
	return checked, nil
}

func checkImage(file *os.File) (*image, error) {
	contents, err := xva.Check(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; fetch or build it anew", ErrImage, err)
	}
	i := &image{File: file, version: contents.Version, bytes: contents.Bytes, sum: hex.EncodeToString(contents.SHA256[:])}
	if err := i.compareSum(file.Name() + ".sha256"); err != nil {
		return nil, err
	}
	if i.disk, err = applianceDisk(contents); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	return i, nil
}

// compareSum compares the file's hash with the one noted beside it, if there is one: the XVA has checksums of its disks' content
// alone.
func (i *image) compareSum(path string) error {
	note, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	noted, _, _ := strings.Cut(strings.TrimSpace(string(note)), " ")
	if !strings.EqualFold(noted, i.sum) {
		return fmt.Errorf("%w: its SHA-256 is %s, %s says %.80s: it was altered, or the two do not belong together; fetch or build both anew",
			ErrImage, i.sum, path, noted)
	}
	return nil
}

// applianceDisk makes sure that an XVA is a delegate's, and gives the size of its disk.
func applianceDisk(contents xva.Contents) (int64, error) {
	var vms, vbds []xva.Object
	for _, o := range contents.Objects {
		switch o.Class {
		case "VM":
			vms = append(vms, o)
		case "VBD":
			vbds = append(vbds, o)
		}
	}
	if contents.Kind != xva.KindDelegateTemplate || len(vms) != 1 {
		return 0, fmt.Errorf("it holds VM %.80q and is no delegate's: it lacks the mark %s=%s", contents.Name, xva.KeyKind, xva.KindDelegateTemplate)
	}
	template, _ := vms[0].Snapshot["is_a_template"].(bool)
	protocol := vms[0].Table("other_config")[inventory.KeyProtocol]
	switch {
	case !imageVersion.MatchString(contents.Version):
		return 0, fmt.Errorf("its version is %.80q, which is none", contents.Version)
	case !template:
		return 0, errors.New("its VM is no template")
	case len(contents.Disks) != 1 || len(vbds) != 1 || vbds[0].Text("userdevice") != strconv.Itoa(bootDevice):
		return 0, fmt.Errorf("it has %d disks: a delegate has one, at position %d", len(contents.Disks), bootDevice)
	case !placement.Compatible(protocol):
		return 0, fmt.Errorf("it speaks version %.20s of the protocol, this orchestrator another: deploy the image of its version", protocol)
	}
	return contents.Disks[0].Size, nil
}

// upload starts reading the file anew; sum is complete when all of it has been read.
func (i *image) upload() (body io.Reader, sum hash.Hash, err error) {
	if _, err := i.Seek(0, io.SeekStart); err != nil {
		return nil, nil, err
	}
	sum = sha256.New()
	return io.TeeReader(i.File, sum), sum, nil
}
