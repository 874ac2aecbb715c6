//go:build foreign

package foreign_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// TestImportOfForeignXVA uploads an XVA that Xen Orchestra writes; the disks must be equal to what it read.
func TestImportOfForeignXVA(t *testing.T) {
	pool, _ := newPool(t)
	const mib = 1 << 20
	contents := [][]byte{
		disk(12*mib, 0, 3*mib, 7*mib+5, 700), // a hole between, and one at the end: chunks left out, the last one written for its own sake
		disk(6*mib, mib, mib, 6*mib-1, 1),    // begins with a hole, ends with data
		disk(2 * mib),                        // nothing but zeroes
	}
	var files []string
	for n, content := range contents {
		files = append(files, filepath.Join(t.TempDir(), string(rune('a'+n))))
		if err := os.WriteFile(files[n], content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var answer struct {
		UUID, Name, Firmware string

		Disks []struct {
			UUID, Name string
			Size       int64
		}
	}
	script(t, "xva", map[string]any{
		"url": "https://" + pool.Address(), "username": username, "password": password, "sr": "shared", "files": files,
	}, &answer)
	if answer.Name != "by Xen Orchestra" || answer.Firmware != "uefi" || len(answer.Disks) != len(contents) {
		t.Fatalf("the imported VM is %+v", answer)
	}
	for n, want := range contents {
		got, err := os.ReadFile(pool.VDIPath(answer.Disks[n].UUID))
		if err != nil {
			t.Fatal(err)
		}
		if answer.Disks[n].Size != int64(len(want)) || !bytes.Equal(got, want) {
			t.Errorf("disk %d, %+v, is not equal to what was written", n, answer.Disks[n])
		}
	}
}

// disk makes a disk of zeroes with random data at pairs of offset and length.
func disk(size int, areas ...int) []byte {
	content := make([]byte, size)
	random := rand.NewChaCha8([32]byte{byte(len(areas))})
	for n := 0; n < len(areas); n += 2 {
		_, _ = random.Read(content[areas[n] : areas[n]+areas[n+1]]) // never fails
	}
	return content
}
