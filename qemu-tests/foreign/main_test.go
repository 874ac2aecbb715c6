//go:build foreign

package foreign_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const (
	username, password = "root", "a simulated pool's"
	vmName             = "web"
)

// newPool builds a pool of two hosts with a shared SR, and a VM of two disks.
func newPool(t *testing.T) (*xapisim.Pool, xapisim.Added) {
	t.Helper()
	pool, err := xapisim.New(xapisim.Config{
		Name: "pool", Dir: t.TempDir(), Hosts: 2, Username: username, Password: password, AuthDelay: 10 * time.Millisecond,
		SRs: []xapisim.SRConfig{{Name: "shared", Shared: true}, {Name: "local", Type: "ext"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	vm, err := pool.AddVM(xapisim.VMConfig{Name: vmName, Disks: []xapisim.DiskConfig{{Size: 8 << 20}, {Size: 4 << 20, SR: "local"}}})
	if err != nil {
		t.Fatal(err)
	}
	return pool, vm
}

// script runs one of the scripts of client: a request in, an answer out. A complaint of the client is a failure.
func script(t *testing.T, name string, request map[string]any, answer any) {
	t.Helper()
	input, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "node", "client/"+name+".mjs")
	command.Stdin = bytes.NewReader(input)
	var complaint bytes.Buffer
	command.Stderr = &complaint
	output, err := command.Output()
	if err != nil {
		t.Fatalf("%s: %v (make foreign installs node and the packages)\n%s", name, err, complaint.Bytes())
	}
	t.Logf("%s says %s", name, output)
	decoder := json.NewDecoder(bytes.NewReader(output))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(answer); err != nil {
		t.Fatalf("%s answered %q: %v", name, output, err)
	}
}
