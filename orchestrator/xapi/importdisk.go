package xapi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/url"
)

// importDiskMethod names the import of a disk in errors and in the pool's list of tasks.
const importDiskMethod = "VDI import"

// DiskImport says what is written to a disk.
type DiskImport struct {
	VDI Ref
	SR  Ref // of the disk
	// Body is the content in pieces: before each a header as AppendPiece makes it, and at the end one of an empty piece. What no piece
	// speaks of stays as it is. Body is read by one goroutine at a time, and not any more once ImportDisk has returned.
	Body io.Reader
	Size int64 // of Body in bytes, headers included: uploads of unknown length are refused (xapi-observed, import and export)
}

// PieceHeader is the size of a piece's header in bytes.
const PieceHeader = 12

// MaxPiece is how long a piece is at most, in bytes.
const MaxPiece = 1 << 30

// AppendPiece appends the header of a piece of a disk, in xapi's own framing, 'chunked' (xapi-facts §10.6). An empty piece at 0 ends
// the content.
func AppendPiece(dst []byte, offset int64, length int) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(offset))
	return binary.LittleEndian.AppendUint32(dst, uint32(length))
}

// ImportDisk writes to a disk through its pool, which attaches it to a control domain meanwhile: nobody else has it then. The disk's
// format does not matter. The host says that all is well before it has read anything: ImportDisk returns nil when the import's task
// has succeeded, which is after the disk was detached. After an error the disk may hold any part of what was sent, and may be attached
// for some seconds more.
//
// Where the upload goes is asked first, as by Import; so are cancelling and the errors.
func (c *Client) ImportDisk(ctx context.Context, o DiskImport) error {
	if o.Body == nil || o.Size < PieceHeader {
		return fmt.Errorf("%s: nothing to upload, %d bytes", importDiskMethod, o.Size)
	}
	if o.VDI.IsNull() {
		return errors.New(importDiskMethod + ": it needs a disk")
	}
	var task Ref
	if err := c.Call(ctx, "task.create", &task, importDiskMethod, ""); err != nil {
		return err
	}
	to := destination{
		what: importDiskMethod, path: "/import_raw_vdi", sr: o.SR,
		query: url.Values{"vdi": {string(o.VDI)}, "format": {"raw"}, "chunked": {"true"}},
		// A host sends it on before it looks at the format, and refuses this one before it attaches the disk.
		probe: url.Values{"vdi": {string(o.VDI)}, "format": {"none"}},
	}
	_, err := c.upload(ctx, to, task, &upload{source: o.Body, size: o.Size})
	return err
}
