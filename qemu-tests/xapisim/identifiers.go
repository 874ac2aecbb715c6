package xapisim

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"time"
)

// newUUID draws a version 4 uuid.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func newRef() string { return "OpaqueRef:" + newUUID() }

// macOf derives a locally administered unicast address from a VM's mac_seed and a device, so that it is stable for both
// (xapi-facts §6.5).
func macOf(seed, device string) string {
	sum := sha256.Sum256([]byte(seed + "/" + device))
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", sum[0]&0xfe|0x02, sum[1], sum[2], sum[3], sum[4], sum[5])
}

// now is the time as the XenAPI can express it.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }
