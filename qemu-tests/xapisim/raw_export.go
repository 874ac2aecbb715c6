package xapisim

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim/vhd"
)

func (x *exchange) admitExportRaw() *refusal {
	name := x.parameter("vdi")
	if name == "" {
		return x.escaped(failure("Missing vdi query parameter"))
	}
	var e *Error
	if x.vdi, e = x.byRefOrUUID("VDI", name); e != nil {
		return x.escaped(e)
	}
	redirect, e := x.route(x.db.find("SR", x.vdi.text("SR")))
	if e != nil {
		return x.escaped(e)
	}
	return redirect
}

func (x *exchange) checkExportRaw() *refusal {
	if _, known := x.rawFormat(); !known {
		return &refusal{bare: true, line: notFound, failure: internal("Unknown format " + x.parameter("format"))}
	}
	return nil
}

func (x *exchange) headOfRaw() []string {
	format, _ := x.rawFormat()
	kind := map[string]string{"raw": "application/octet-stream", "vhd": "application/vhd"}[format]
	return []string{"content-type:" + kind, `content-disposition: attachment; filename="` + x.vdi.uuid() + "." + format + `"`}
}

// runExportRaw sends a VDI. With a base, a VHD holds only what differs from it: whole blocks of 2 MiB, and by content, where
// a real one goes by what was written since.
func (x *exchange) runExportRaw(c *call, out io.ReadWriter) (any, error) {
	format, _ := x.rawFormat()
	if size := x.vdi.integer("virtual_size"); format == "vhd" && size > vhd.MaxSize {
		return nil, fail("VDI_TOO_LARGE", x.vdi.ref, strconv.FormatInt(vhd.MaxSize, 10))
	}
	err := c.withDom0(x.host, x.vdi, "RO", func() error {
		name := x.parameter("base")
		if name == "" {
			return x.send(c, out, format, nil)
		}
		base, e := x.byRefOrUUID("VDI", name)
		if e != nil {
			return e
		}
		return c.withDom0(x.host, base, "RO", func() error {
			if c.garbage[x.vdi.text("SR")] || c.garbage[base.text("SR")] {
				return failure("Cannot compute differences on non-VHD images")
			}
			return x.send(c, out, format, base)
		})
	})
	if e, ok := errors.AsType[*Error](err); ok {
		return nil, e
	} else if err != nil {
		return nil, ioError(err)
	}
	return noResult, nil
}

// send streams a volume. A raw stream holds everything, whatever the base.
func (x *exchange) send(c *call, out io.Writer, format string, base *object) error {
	path, under, size := c.volumePath(x.vdi), "", x.vdi.integer("virtual_size")
	image := vhd.Disk{Size: size, ID: imageID(newUUID())}
	if base != nil {
		under = c.volumePath(base)
		image.Parent = &vhd.Parent{ID: imageID(base.uuid()), Modified: now(), Name: x.imagePath(base)}
	}
	return c.unlocked(func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		source := &device{File: f, size: size, ctx: c.ctx, progress: c.percent}
		if format == "raw" {
			_, err := io.Copy(out, &reading{device: source, total: size, from: io.NewSectionReader(f, 0, size)})
			return err
		}
		blocks, err := imageBlocks(c.ctx, f, under, size)
		if err != nil {
			return err
		}
		return vhd.Write(out, image, blocks, &reading{device: source, total: int64(len(blocks)) * vhd.BlockSize})
	})
}

// imageID makes the id of an image of a UUID.
func imageID(uuid string) (id vhd.ID) {
	b, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err == nil { // else it came from a file that somebody put into the SR: an image without an id
		copy(id[:], b)
	}
	return id
}

// imagePath is where a host would have the image of a VDI.
func (p *Pool) imagePath(vdi *object) string {
	sr := p.db.find("SR", vdi.text("SR"))
	if thick(sr) {
		return fmt.Sprintf("/dev/VG_XenStorage-%s/VHD-%s", sr.uuid(), vdi.uuid())
	}
	return fmt.Sprintf("/var/run/sr-mount/%s/%s.vhd", sr.uuid(), vdi.uuid())
}

// reading counts what is read of a device for its progress.
type reading struct {
	*device
	from        io.Reader
	done, total int64
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	return n, r.count(n, err)
}

func (r *reading) ReadAt(p []byte, offset int64) (int, error) {
	n, err := r.device.ReadAt(p, offset)
	return n, r.count(n, err)
}

func (r *reading) count(n int, err error) error {
	if r.done += int64(n); r.total > 0 {
		r.show(r.done, r.total)
	}
	return cmp.Or(r.ctx.Err(), err)
}

// imageBlocks lists the blocks that an image must hold: those that are not zero, or those that differ from the volume
// under it.
func imageBlocks(ctx context.Context, f *os.File, under string, size int64) (blocks []int64, err error) {
	var base *os.File
	if under != "" {
		if base, err = os.Open(under); err != nil {
			return nil, err
		}
		defer base.Close()
	}
	content, other := make([]byte, vhd.BlockSize), make([]byte, vhd.BlockSize)
	for offset := int64(0); offset < size; offset += vhd.BlockSize {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		held, err := readBlock(f, content, offset)
		if err != nil {
			return nil, err
		}
		clear(other)
		if base != nil {
			under, err := readBlock(base, other, offset)
			if err != nil {
				return nil, err
			}
			held = held || under
		}
		if held && !bytes.Equal(content, other) {
			blocks = append(blocks, offset/vhd.BlockSize)
		}
	}
	return blocks, nil
}

// readBlock reads a block, zeroes where the file has none; held is false when it is a hole.
func readBlock(f *os.File, block []byte, offset int64) (held bool, err error) {
	clear(block)
	data, err := unix.Seek(int(f.Fd()), offset, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && data >= offset+int64(len(block)) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	n, err := f.ReadAt(block, offset)
	clear(block[n:])
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return true, err
}
