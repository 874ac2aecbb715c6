package manifest

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Manifests and deltas have one layout, docs/manifest.md: header, records, index (deltas), table, footer; big endian.
const (
	formatVersion = 1
	headerSize    = 112
	footerSize    = 64
	indexEntry    = 4  // bytes: an extent number
	tableEntry    = 32 // bytes: an extent digest
	flagAssumed   = 1 << 0
)

type kind string

const (
	kindManifest kind = "USDYMANI"
	kindDelta    kind = "USDYDELT"
	endMagic          = "USDY-END"
)

func (k kind) String() string {
	if k == kindDelta {
		return "delta"
	}
	return "manifest"
}

// Header is what a manifest says of itself.
type Header struct {
	KeyID      KeyID // of the Key whose digests these are
	Geometry   Geometry
	Generation Generation // the content described: of a replica, the run that wrote it
	// Assumed: parts of the disk were not read, because an allocation map or changed block tracking said that they need not
	// be. The digests of those parts are as true as that hint.
	Assumed bool
}

// Base names the content that a delta starts from.
type Base struct {
	Generation Generation
	Root       Digest
}

// withKey returns the Header for digests that will be computed under key, after checking its fields.
func (h Header) withKey(key Key) (Header, error) {
	if h.KeyID == (KeyID{}) {
		h.KeyID = key.ID()
	}
	if err := key.check(h.KeyID); err != nil {
		return Header{}, err
	}
	if err := h.Geometry.Validate(); err != nil {
		return Header{}, err
	}
	if h.Generation.IsZero() {
		return Header{}, fmt.Errorf("generation: %w: a manifest must name the content it describes", ErrInvalid)
	}
	return h, nil
}

func encodeHeader(k kind, h Header, base Base) []byte {
	var flags uint16
	if h.Assumed {
		flags |= flagAssumed
	}
	p := make([]byte, 0, headerSize)
	p = append(p, k...)
	p = binary.BigEndian.AppendUint16(p, formatVersion)
	p = binary.BigEndian.AppendUint16(p, flags)
	p = append(p, 0, 0, 0, 0)
	p = append(p, h.KeyID[:]...)
	p = binary.BigEndian.AppendUint64(p, uint64(h.Geometry.Size))
	p = append(p, h.Generation[:]...)
	p = append(p, base.Generation[:]...)
	p = append(p, base.Root[:]...)
	return appendChecksum(p, p)
}

// decodeHeader checks p, of headerSize bytes. The version comes before the checksum: a later version may lay out the rest
// otherwise.
func decodeHeader(k kind, p []byte) (h Header, base Base, err error) {
	if found := kind(p[:8]); found != k {
		if found == kindManifest || found == kindDelta {
			return h, base, fmt.Errorf("header: %w: the file is a %s", ErrCorrupt, found)
		}
		return h, base, fmt.Errorf("header: %w: it begins with %q instead of %q", ErrCorrupt, p[:8], string(k))
	}
	if v := binary.BigEndian.Uint16(p[8:]); v != formatVersion {
		return h, base, fmt.Errorf("%w: the file has version %d, this program reads version %d; upgrade it, or remove the file and scan the disk anew",
			ErrVersion, v, formatVersion)
	}
	body := p[:headerSize-checksumSize]
	if !checksumMatches(p[len(body):], body) {
		return h, base, fmt.Errorf("header: %w: its checksum does not match", ErrCorrupt)
	}
	flags := binary.BigEndian.Uint16(p[10:])
	if unknown := flags &^ flagAssumed; unknown != 0 || !IsZero(p[12:16]) {
		return h, base, fmt.Errorf("%w: the file uses flags %04x and reserved bytes %x of a later version; upgrade this program", ErrVersion, unknown, p[12:16])
	}
	h = Header{
		KeyID:      KeyID(p[16:]),
		Geometry:   Geometry{Size: int64(binary.BigEndian.Uint64(p[24:]))},
		Generation: Generation(p[32:]),
		Assumed:    flags&flagAssumed != 0,
	}
	base = Base{Generation: Generation(p[48:]), Root: Digest(p[64:])}
	if err := h.Geometry.Validate(); err != nil {
		return h, base, fmt.Errorf("header: %w: %w", ErrCorrupt, err)
	}
	if h.Generation.IsZero() || base.Generation.IsZero() != (k == kindManifest) || k == kindManifest && base != (Base{}) {
		return h, base, fmt.Errorf("header: %w: generation %s on base %s is none of a %s", ErrCorrupt, h.Generation, base.Generation, k)
	}
	return h, base, nil
}

// footer closes a file. Its checksum covers the header, the index, the table and its own fields, so that parts of two files
// never pass for one.
type footer struct {
	root    Digest
	records uint32
}

func encodeFooter(f footer, header, index, table []byte) []byte {
	p := make([]byte, 0, footerSize)
	p = append(p, f.root[:]...)
	p = append(p, endMagic...)
	p = binary.BigEndian.AppendUint32(p, f.records)
	p = append(p, 0, 0, 0, 0)
	return appendChecksum(p, header, index, table, p)
}

// decodeFooter checks the form of p, of footerSize bytes; its checksum is checked when index and table have been read.
func decodeFooter(p []byte) (footer, error) {
	if !bytes.Equal(p[32:40], []byte(endMagic)) {
		return footer{}, fmt.Errorf("footer: %w: no end mark", ErrTruncated)
	}
	if !IsZero(p[44:48]) {
		return footer{}, fmt.Errorf("footer: %w: reserved bytes are not zero", ErrCorrupt)
	}
	return footer{root: Digest(p), records: binary.BigEndian.Uint32(p[40:])}, nil
}
