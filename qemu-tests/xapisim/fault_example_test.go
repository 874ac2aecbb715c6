package xapisim_test

import (
	"crypto/tls"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// examplePool is a pool with an SR "shared" and a VM "web" on it, and a client that has logged in.
func examplePool() (pool *xapisim.Pool, c *client, vm string, end func()) {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	pool, err = xapisim.New(xapisim.Config{Name: "example", Dir: dir, SRs: []xapisim.SRConfig{{Name: "shared", Shared: true}}})
	if err != nil {
		log.Fatal(err)
	}
	added, err := pool.AddVM(xapisim.VMConfig{Name: "web", Disks: []xapisim.DiskConfig{{Size: 2 * mib}}})
	if err != nil {
		log.Fatal(err)
	}
	c = &client{url: pool.URL(), http: &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}}}
	session, err := c.raw("session.login_with_password", "root", "xenroot", "1.0", "example")
	if err != nil {
		log.Fatal(err)
	}
	c.session, _ = session.(string)
	return pool, c, added.Ref, func() {
		pool.Close()
		if err := os.RemoveAll(dir); err != nil {
			log.Fatal(err)
		}
	}
}

// A call fails once, with an error of the storage.
func ExamplePool_Fault() {
	pool, c, vm, end := examplePool()
	defer end()
	remove := pool.Fault(xapisim.Rule{
		Method: "VM.snapshot", Object: "web", Count: 1,
		Error: &xapisim.Error{Code: "SR_BACKEND_FAILURE_44", Params: []string{"", "full", ""}},
	})
	defer remove()
	for range 2 {
		_, err := c.raw("VM.snapshot", c.session, vm, "snapshot")
		fmt.Println(err)
	}
	// Output:
	// SR_BACKEND_FAILURE_44[ full ]
	// <nil>
}

// A call is carried out, but its answer is lost with the connection: whoever repeats it makes a second snapshot.
func ExamplePool_Fault_lostAnswer() {
	pool, c, vm, end := examplePool()
	defer end()
	pool.Fault(xapisim.Rule{Method: "VM.snapshot", Count: 1, CutReply: true})
	_, err := c.raw("VM.snapshot", c.session, vm, "snapshot")
	fmt.Println("answered:", err == nil)
	snapshots, err := c.raw("VM.get_snapshots", c.session, vm)
	fmt.Println(len(snapshots.([]any)), err)
	// Output:
	// answered: false
	// 1 <nil>
}

// Something happens behind the pool's back just before a call: others fill the SR.
func ExampleRule_lie() {
	pool, c, _, end := examplePool()
	defer end()
	data, err := os.ReadFile("testdata/faults/lying-storage.json")
	if err != nil {
		log.Fatal(err)
	}
	faults, err := xapisim.ParseFaults(data)
	if err != nil {
		log.Fatal(err)
	}
	faults.Add(pool)
	disks, err := c.raw("VDI.get_all", c.session)
	if err != nil {
		log.Fatal(err)
	}
	for range 2 {
		_, err := c.raw("VDI.snapshot", c.session, disks.([]any)[0])
		fmt.Println(err)
	}

	pool.Fault(xapisim.Rule{Method: "VM.get_all", Count: 1, Lie: &xapisim.Lie{Kind: "power-loss", Object: "web"}})
	_, err = c.raw("VM.get_all", c.session)
	fmt.Println(err)
	// Output:
	// <nil>
	// SR_BACKEND_FAILURE_44[ There is insufficient space need 2097152, have 65536]
	// INTERNAL_ERROR[xapisim: lie power-loss about web: it does not run]
}

// Another VM has written to a disk, and an administrator has cloned its VM: at once from Go, by the same names as in a file of
// rules.
func ExamplePool_Lie() {
	pool, c, vm, end := examplePool()
	defer end()
	lie, err := xapisim.ParseLie([]byte(`{"kind": "user-clone", "object": "web"}`))
	if err != nil {
		log.Fatal(err)
	}
	for _, l := range []xapisim.Lie{{Kind: "stranger", Object: "web 0", Blocks: 2}, lie, {Kind: "power-loss", Object: "web"}} {
		fmt.Println(pool.Lie(l))
	}
	vms, err := c.raw("VM.get_by_name_label", c.session, "Copy of web")
	fmt.Println(len(vms.([]any)), err)
	state, err := c.raw("VM.get_power_state", c.session, vm)
	fmt.Println(state, err)
	// Output:
	// <nil>
	// <nil>
	// xapisim: lie power-loss about web: it does not run
	// 1 <nil>
	// Halted <nil>
}

// The coordinator's power is lost and a member takes over.
func ExamplePool_Promote() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	pool, err := xapisim.New(xapisim.Config{Name: "example", Dir: dir, Hosts: 2})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	fmt.Println(pool.CrashHost(0), pool.Promote(1), pool.Coordinator())
	// Output:
	// <nil> <nil> 1
}

// Connections are accepted and never served, as behind a firewall that has forgotten them.
func ExamplePool_Fault_halfOpen() {
	pool, c, _, end := examplePool()
	defer end()
	pool.Fault(xapisim.Rule{Method: "connection", Count: 1, Hang: true})
	c.http.Timeout = 50 * time.Millisecond
	_, err := c.raw("VM.get_all", c.session)
	fmt.Println("answered:", err == nil)
	c.http.Timeout = 0
	_, err = c.raw("VM.get_all", c.session)
	fmt.Println("answered:", err == nil)
	// Output:
	// answered: false
	// answered: true
}

// One call in three fails, and the same ones whenever the seed is the same.
func ExampleRule() {
	pool, c, vm, end := examplePool()
	defer end()
	for range 2 {
		remove := pool.Fault(xapisim.Rule{
			Method: "VM.*", Object: "web", Probability: 1. / 3, Seed: 1, Error: &xapisim.Error{Code: "INTERNAL_ERROR"},
		})
		var failed []int
		for n := range 12 {
			if _, err := c.raw("VM.get_record", c.session, vm); err != nil {
				failed = append(failed, n)
			}
		}
		fmt.Println(failed)
		remove()
	}
	// Output:
	// [0 2 6 7 9 10]
	// [0 2 6 7 9 10]
}

// Rules that are kept in a file.
func ExampleParseFaults() {
	pool, c, _, end := examplePool()
	defer end()
	data, err := os.ReadFile("testdata/faults/full-storage.json")
	if err != nil {
		log.Fatal(err)
	}
	faults, err := xapisim.ParseFaults(data)
	if err != nil {
		log.Fatal(err)
	}
	faults.Add(pool)
	srs, err := c.raw("SR.get_all", c.session)
	if err != nil {
		log.Fatal(err)
	}
	disk := map[string]any{
		"SR": srs.([]any)[0], "virtual_size": 1, "type": "user", "sharable": false, "read_only": false, "other_config": map[string]string{},
	}
	for range 8 {
		_, err := c.raw("VDI.create", c.session, disk)
		fmt.Println(err)
	}

	_, err = xapisim.ParseFaults([]byte(`{"rules": [{"name": "typo", "method": "VM.strat", "cut": "before"}]}`))
	fmt.Println(err)
	// Output:
	// <nil>
	// SR_BACKEND_FAILURE_44[ There is insufficient space ]
	// <nil>
	// SR_BACKEND_FAILURE_44[ There is insufficient space ]
	// SR_BACKEND_FAILURE_44[ There is insufficient space ]
	// <nil>
	// <nil>
	// <nil>
	// rule 1 (typo): "method": there is no method VM.strat; want such as VDI.create, VDI.*, http/put_import or connection
}
