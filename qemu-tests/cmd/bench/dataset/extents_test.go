package dataset

import (
	"slices"
	"testing"
)

func TestParseExtents(t *testing.T) {
	out := []byte(`Level Entries       Logical          Physical Length Flags
 0/ 1   1/  2     0 -  8191  2048             8192
 1/ 1   1/  2     0 -  4095 34816 - 38911   4096
 1/ 1   2/  2  4096 -  4096 40960 - 40960      1
`)
	got, err := parseExtents(out)
	want := []span{{34816 * pageSize, 4096 * pageSize}, {40960 * pageSize, pageSize}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseExtents([]byte(" 0/ 0   1/  1     0 -     0     9 -     1      1\n")); err == nil {
		t.Error("an extent that ends before it begins is taken")
	}
}
