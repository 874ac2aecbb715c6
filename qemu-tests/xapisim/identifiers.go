package xapisim

import (
	"crypto/md5" //nolint:gosec // xapi draws addresses with it, nothing rests on it
	"crypto/rand"
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

// macOf derives a locally administered unicast address from a VM's mac_seed and a device, the way of xapi
// (ocaml/xapi/xapi_vif_helpers.ml, gen_mac): a pool that imports a VM gives it the addresses that its old one gave.
func macOf(seed string, device int) string {
	sum := md5.Sum([]byte(seed))
	for range 2 * device {
		sum = md5.Sum(sum[:])
	}
	next := md5.Sum(sum[:])
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", sum[0]&0xfe|0x02, sum[1], sum[2], sum[3], next[1], next[2])
}

// now is the time as the XenAPI can express it.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }
