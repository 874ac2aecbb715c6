package xva_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"testing"

	"github.com/understudy-dr/understudy/image/xva"
)

// FuzzCheck: a file is whole, or the error says what is wrong with it; nothing panics and no memory is taken on trust. The
// seeds are small, because the fuzzer spends its time on making each find smaller.
func FuzzCheck(f *testing.F) {
	disk := []byte("ten bytes!")
	entries := join(ova(vm, sr, vdi.with("virtual_size", "30"), vbd), chunk("Ref:2", 0, disk), chunk("Ref:2", 2, disk))
	small := pack(f, tar.FormatUSTAR, entries...)
	f.Add(small)
	f.Add(packed(f, small, "gzip"))
	f.Add(packed(f, small, "zstd"))
	f.Add(pack(f, tar.FormatPAX, ova(vm)...))
	f.Add(small[:len(small)/2])
	f.Fuzz(func(t *testing.T, file []byte) {
		contents, err := xva.Check(bytes.NewReader(file))
		if err != nil {
			if _, ok := errors.AsType[*xva.Error](err); !ok {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if contents.Bytes != int64(len(file)) {
			t.Fatalf("%d of %d bytes were read", contents.Bytes, len(file))
		}
		for _, disk := range contents.Disks {
			if disk.Bytes > disk.Size {
				t.Fatalf("%+v", disk)
			}
		}
	})
}
