package xapisim

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim/vhd"
)

// ioError is what becomes of whatever goes wrong with the data of a VDI: xapi leaves them to a tool of its own, of which it
// learns only that it has failed (xen-api ocaml/xapi/vhd_tool_wrapper.ml).
func ioError(err error) error {
	if isContext(err) {
		return err
	}
	return fail("VDI_IO_ERROR", "Device I/O errors")
}

// rawFormat is the format that a request asks for. Of the newer ones, tar and qcow2, the simulator knows as little as
// xapi before it had them.
func (x *exchange) rawFormat() (format string, known bool) {
	if format = strings.ToLower(x.parameter("format")); format == "" {
		format = "raw"
	}
	return format, format == "raw" || format == "vhd"
}

func (x *exchange) admitImportRaw() *refusal {
	var e *Error
	if name := x.parameter("vdi"); name != "" {
		if x.vdi, e = x.byRefOrUUID("VDI", name); e != nil {
			return x.escaped(e)
		}
		x.sr = x.db.find("SR", x.vdi.text("SR"))
	} else {
		named := false
		if x.sr, named, e = x.wantedSR(); e != nil {
			return failed(badRequest, e)
		}
		if !named {
			return &refusal{bare: true, line: badRequest, silence: true, failure: fail("VDI_MISSING")}
		}
	}
	redirect, e := x.route(x.sr)
	if e != nil {
		return failed(badRequest, e)
	}
	return redirect
}

// checkImportRaw refuses what cannot be read, and makes the VDI when only an SR was named.
func (x *exchange) checkImportRaw() *refusal {
	format, known := x.rawFormat()
	_, chunked := x.option("chunked")
	refuse := func(line, text string) *refusal { return &refusal{bare: true, line: line, failure: internal(text)} }
	switch {
	case !known:
		return refuse(notFound, "Unknown format "+x.parameter("format"))
	case format != "raw" && chunked:
		return refuse(notFound, "Cannot handle chunked VHD")
	case len(x.request.TransferEncoding) > 0:
		return refuse(notFound, "Cannot handle encoding: "+strings.Join(x.request.TransferEncoding, ", "))
	case x.vdi != nil:
		return nil
	case format == "vhd":
		return refuse("HTTP/1.0 400 Bad Request", "Importing a VHD directly into an SR not yet supported")
	case x.contentLength() < 0:
		return refuse("HTTP/1.0 400 Bad Request", "Not enough info supplied to import")
	}
	c := &call{Pool: x.Pool, ctx: x.request.Context(), client: x.request.Context(), task: x.task.ref, args: []any{map[string]any{
		"name_label": "Imported VDI", "SR": x.sr.ref, "virtual_size": x.contentLength(), "type": "user", "other_config": map[string]string{},
	}}}
	ref, err := vdiCreate(c)
	if err != nil {
		return failed(badRequest, asError(err))
	}
	x.vdi = c.db.find("VDI", asText(ref))
	return nil
}

// option is a parameter that may stand without a value.
func (x *exchange) option(name string) (value string, given bool) {
	return x.parameter(name), x.request.URL.Query().Has(name)
}

// contentLength is the length that the client tells; -1 for none. Go takes a request without one for one without a body.
func (x *exchange) contentLength() int64 {
	if x.request.Header.Get("Content-Length") == "" && x.request.ContentLength == 0 && x.request.Body == http.NoBody {
		return -1
	}
	return x.request.ContentLength
}

func (x *exchange) runImportRaw(c *call, body io.ReadWriter) (any, error) {
	err := c.withDom0(x.host, x.vdi, "RW", func() error {
		path, size := c.volumePath(x.vdi), x.vdi.integer("virtual_size")
		format, _ := x.rawFormat()
		if format == "vhd" && c.garbage[x.vdi.text("SR")] {
			return errors.New("the tool writes VHDs only to what is zero before")
		}
		_, chunked := x.option("chunked")
		return c.unlocked(func() error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close() // each write is checked, and nothing is buffered
			d := &device{File: f, size: size, ctx: c.ctx, progress: c.percent}
			switch {
			case format == "vhd":
				return d.receiveVHD(body, x.contentLength())
			case chunked:
				return d.receiveChunks(body)
			default:
				return d.receiveRaw(body, x.contentLength())
			}
		})
	})
	if e, ok := errors.AsType[*Error](err); ok {
		return nil, e
	} else if err != nil {
		return nil, ioError(err)
	}
	return x.vdi.ref, nil
}

// percent gives a function that tells the task how far a call has come, at each per cent. It is for the time in which
// Pool.mu is not held.
func (c *call) percent(done float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress(done)
}

// device is a VDI attached to the control domain: a file that does not grow.
type device struct {
	*os.File
	size     int64
	ctx      context.Context
	progress func(done float64)
	shown    int // per cent
}

func (d *device) write(b []byte, offset int64) error {
	if offset < 0 || offset > d.size-int64(len(b)) {
		return errors.New("the data go beyond the disk")
	}
	if err := d.ctx.Err(); err != nil {
		return err
	}
	_, err := d.WriteAt(b, offset)
	return err
}

func (d *device) show(done, total int64) {
	if percent := int(done * 100 / total); percent > d.shown {
		d.shown = percent
		d.progress(float64(done) / float64(total))
	}
}

// receiveRaw writes as many bytes as were told, or as many as the disk has. Fewer are an end too early.
func (d *device) receiveRaw(body io.Reader, length int64) error {
	if length < 0 {
		length = d.size
	}
	if length == 0 {
		return errors.New("the tool wants a size above zero")
	}
	buffer := make([]byte, min(length, 1<<20))
	for offset := int64(0); offset < length; offset += int64(len(buffer)) {
		buffer = buffer[:min(int64(len(buffer)), length-offset)]
		if _, err := io.ReadFull(body, buffer); err != nil {
			return err
		}
		if err := d.write(buffer, offset); err != nil {
			return err
		}
		d.show(offset+int64(len(buffer)), length)
	}
	return nil
}

// receiveChunks reads xapi's own framing: offset and length before each piece, little-endian; both zero end it (xen-api
// ocaml/vhd-tool/src/chunked.ml).
func (d *device) receiveChunks(body io.Reader) error {
	header, buffer := make([]byte, 12), make([]byte, 1<<20)
	for {
		if _, err := io.ReadFull(body, header); err != nil {
			return err
		}
		offset, left := int64(binary.LittleEndian.Uint64(header)), int64(binary.LittleEndian.Uint32(header[8:]))
		if offset == 0 && left == 0 {
			return nil
		}
		for left > 0 {
			piece := buffer[:min(left, int64(len(buffer)))]
			if _, err := io.ReadFull(body, piece); err != nil {
				return err
			}
			if err := d.write(piece, offset); err != nil {
				return err
			}
			offset, left = offset+int64(len(piece)), left-int64(len(piece))
		}
	}
}

// receiveVHD writes what a VHD holds, over what is there. A differencing one is so applied to a copy of its parent; nobody
// checks that it is.
func (d *device) receiveVHD(body io.Reader, length int64) error {
	image, err := vhd.NewReader(body, length)
	if err != nil {
		return err
	}
	for {
		extent, err := image.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := d.write(extent.Data, extent.Offset); err != nil {
			return err
		}
		d.show(int64(image.Done()), int64(image.Blocks()))
	}
}
