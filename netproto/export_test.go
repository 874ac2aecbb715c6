package netproto

import (
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"testing"
)

var goldenBlock = regexp.MustCompile("(?ms)^```golden name=(\\S+)\n(.*?)^```$")

// Golden returns the golden bytes of docs/protocol.md by name.
func Golden(t testing.TB) map[string][]byte {
	t.Helper()
	document, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string][]byte{}
	for _, match := range goldenBlock.FindAllStringSubmatch(string(document), -1) {
		raw, err := hex.DecodeString(strings.Join(strings.Fields(match[2]), ""))
		if err != nil {
			t.Fatalf("golden block %s: %v", match[1], err)
		}
		blocks[match[1]] = raw
	}
	return blocks
}
