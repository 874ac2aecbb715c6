package dataset

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
)

// pageSize is that of the database, of the file system's blocks, and of the parts of a block.
const pageSize = 4 << 10

// source returns a stream of random bytes that belongs to a purpose.
func source(purpose string) *rand.ChaCha8 {
	var seed [32]byte
	copy(seed[:], purpose)
	return rand.NewChaCha8(seed)
}

// noise fills p with what no compressor shrinks.
func noise(r *rand.ChaCha8, p []byte) { _, _ = r.Read(p) } // never fails

// table fills p, which starts at a page, with pages as a database writes them: a header, rows of numbers and words, free space at the
// end. They compress to some two fifths.
func table(r *rand.ChaCha8, p []byte) {
	words := []string{"amsterdam", "invoice", "pending", "customer", "2026-03-17", "blue", "warehouse", "null", "standard", "EUR", "shipped", "north"}
	pick := rand.New(r)
	for ; len(p) > 0; p = p[min(pageSize, len(p)):] {
		page := p[:min(pageSize, len(p))]
		clear(page)
		used := copy(page, "PAGE")
		end := len(page) - pick.IntN(len(page)/4)
		for used+64 < end {
			binary.LittleEndian.PutUint64(page[used:], pick.Uint64())
			used += 8
			for range 4 {
				used += copy(page[used:end], words[pick.IntN(len(words))])
			}
			binary.LittleEndian.PutUint32(page[used:], pick.Uint32N(1<<20))
			used += 8
		}
	}
}

// generate writes a file of generated content.
func generate(path string, size int64, fill func([]byte)) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size && err == nil; off += int64(len(buf)) {
		part := buf[:min(int64(len(buf)), size-off)]
		fill(part)
		_, err = f.Write(part)
	}
	return errors.Join(err, f.Close())
}

// copyWhole copies an image, holes as zeroes that are written.
func copyWhole(dst, src string) error {
	from, err := os.Open(src)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Create(dst)
	if err != nil {
		return err
	}
	// Readers and writers that offer more would let the kernel keep the holes.
	_, err = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 4<<20))
	return errors.Join(err, to.Close())
}
