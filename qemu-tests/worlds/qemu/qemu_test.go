package qemu_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/qemu"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const uuid = "11111111-2222-4333-8444-555555555555"

func machine(behaviour string) xapisim.Machine {
	return xapisim.Machine{
		UUID: uuid, Name: behaviour, DomainID: 7, UniqueDomainID: "boot-1", Memory: 256 << 20, VCPUs: 2, Firmware: "bios",
		Data: map[string]string{"vm-data/understudy/in/nonce": "abcd", "vm-data/understudy/out": ""},
	}
}

// start boots a machine of a world; the test ends with it gone.
func start(t *testing.T, o qemu.Options, m xapisim.Machine) (guest xapisim.Guest, dir string) {
	t.Helper()
	o.Program, o.Dir = os.Args[0], t.TempDir()
	world := qemu.New(o)
	guest, err := world.Start(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := guest.Kill(); err != nil {
			t.Error(err)
		}
		<-guest.Done()
		if _, there := world.Guest(m.UUID); there {
			t.Error("the world knows a machine that is gone")
		}
	})
	if known, ok := world.Guest(m.UUID); !ok || known != guest {
		t.Error("the world does not know its machine")
	}
	return guest, filepath.Join(o.Dir, m.UUID+".7")
}

// await waits until the tree shows a key.
func await(t *testing.T, guest xapisim.Guest, key string) string {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		tree, err := guest.Tree()
		if err == nil && tree[key] != "" {
			return tree[key]
		}
		select {
		case <-guest.Changed():
		case <-deadline:
			t.Fatalf("no %s in %v, %v", key, tree, err)
		}
	}
}

func disk(t *testing.T, number string) xapisim.Disk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, make([]byte, 4096), 0o644); err != nil {
		t.Fatal(err)
	}
	return xapisim.Disk{UserDevice: number, Path: path}
}

func limit(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestCommandLine(t *testing.T) {
	vars := filepath.Join(t.TempDir(), "vars")
	if err := os.WriteFile(vars, []byte("variables"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := machine("plain")
	m.Firmware, m.Disks = "uefi", []xapisim.Disk{disk(t, "0"), disk(t, "3")}
	m.VIFs = []xapisim.VIF{{Device: "0", MAC: "0a:00:00:00:00:01", MTU: 9000}, {Device: "1", MAC: "0a:00:00:00:00:02"}}
	guest, dir := start(t, qemu.Options{FirmwareCode: "/a,b/code", FirmwareVars: vars, Clock: time.Unix(0, 0), Network: "/x/lan"}, m)
	arguments := strings.Fields(await(t, guest, "data/arguments/0"))
	for name, want := range map[string][]string{
		"-m": {"256M"}, "-smp": {"2"}, "-machine": {"q35"}, "-accel": {"tcg,thread=multi"}, "-rtc": {"base=1970-01-01T00:00:00"},
		"-serial": {"file:" + dir + "/console.log"}, "-mon": {"chardev=qmp,mode=control"},
		"-fw_cfg": {"name=opt/org.understudy/guest,file=" + dir + "/guest.json"},
		"-drive":  {"if=pflash,unit=0,format=raw,readonly=on,file=/a,,b/code", "if=pflash,unit=1,format=raw,file=" + dir + "/OVMF_VARS.fd"},
		"-kernel": nil,
	} {
		if got := option(arguments, name); !slices.Equal(got, want) {
			t.Errorf("%s %q, not %q", name, got, want)
		}
	}
	for _, want := range []string{"-no-reboot", "-nodefaults"} {
		if !slices.Contains(arguments, want) {
			t.Errorf("no %s", want)
		}
	}
	if got, want := option(arguments, "-netdev"), []string{
		"stream,server=off,addr.type=unix,addr.path=/x/lan,id=vif0",
		"stream,server=off,addr.type=unix,addr.path=/x/lan,id=vif1",
	}; !slices.Equal(got, want) {
		t.Errorf("networks %q, not %q", got, want)
	}
	if !slices.Contains(arguments, "virtio-net-pci,romfile=,netdev=vif0,mac=0a:00:00:00:00:01,host_mtu=9000") {
		t.Errorf("interfaces %q", option(arguments, "-device"))
	}
	var serials []string
	for _, d := range option(arguments, "-device") {
		var device struct{ Driver, Serial string }
		if strings.HasPrefix(d, "{") && json.Unmarshal([]byte(d), &device) == nil {
			serials = append(serials, device.Serial)
		}
	}
	if !slices.Equal(serials, []string{"vbd-0", "vbd-3"}) {
		t.Errorf("serials %q", serials)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "OVMF_VARS.fd")); err != nil || string(got) != "variables" {
		t.Errorf("variables %q, %v", got, err)
	}
	var configuration map[string]string
	if err := json.Unmarshal([]byte(await(t, guest, "data/configuration")), &configuration); err != nil {
		t.Fatal(err)
	}
	if configuration["vm"] != "/vm/"+uuid || configuration["unique-domain-id"] != "boot-1" || configuration["vm-data/understudy/in/nonce"] != "abcd" {
		t.Errorf("configuration %v", configuration)
	}
}

func TestDirectAndMute(t *testing.T) {
	m := machine("plain")
	m.Firmware = "uefi" // whose files are not needed
	guest, _ := start(t, qemu.Options{
		Mute: true, FirmwareVars: "/nonexistent", Direct: &qemu.Direct{Kernel: "/k", Initramfs: "/i", CommandLine: "quiet"},
	}, m)
	arguments := strings.Fields(await(t, guest, "data/arguments/0"))
	if fmt.Sprint(option(arguments, "-kernel"), option(arguments, "-initrd"), option(arguments, "-append")) != "[/k] [/i] [quiet]" {
		t.Errorf("%q", arguments)
	}
	if option(arguments, "-fw_cfg") != nil || slices.Contains(arguments, "virtio-serial-pci") {
		t.Errorf("a mute machine was told something: %q", arguments)
	}
}

func TestStartRefuses(t *testing.T) {
	attempt := func(change func(*qemu.Options, *xapisim.Machine)) error {
		o, m := qemu.Options{Program: os.Args[0], Dir: t.TempDir()}, machine("plain")
		change(&o, &m)
		guest, err := qemu.New(o).Start(limit(t, 300*time.Millisecond), m)
		if err == nil {
			_ = guest.Kill()
			<-guest.Done()
		}
		return err
	}
	for name, c := range map[string]struct {
		change func(*qemu.Options, *xapisim.Machine)
		want   string
	}{
		"no QEMU":       {func(o *qemu.Options, _ *xapisim.Machine) { o.Program = "qemu-of-nowhere" }, "hack/deps e2e"},
		"a QEMU dies":   {func(_ *qemu.Options, m *xapisim.Machine) { m.Name = "dies" }, "no such accelerator"},
		"a QEMU hangs":  {func(_ *qemu.Options, m *xapisim.Machine) { m.Name = "silent" }, "deadline"},
		"no OVMF":       {func(o *qemu.Options, m *xapisim.Machine) { o.FirmwareVars, m.Firmware = "/nonexistent", "uefi" }, "hack/deps e2e"},
		"firmware":      {func(_ *qemu.Options, m *xapisim.Machine) { m.Firmware = "coreboot" }, "coreboot"},
		"key":           {func(_ *qemu.Options, m *xapisim.Machine) { m.Data["vm-data/../x"] = "1" }, "vm-data/../x"},
		"foreign key":   {func(_ *qemu.Options, m *xapisim.Machine) { m.Data["control/shutdown"] = "1" }, "vm-data"},
		"value":         {func(_ *qemu.Options, m *xapisim.Machine) { m.Data["vm-data/x"] = strings.Repeat("x", 4097) }, "4097"},
		"escaped value": {func(_ *qemu.Options, m *xapisim.Machine) { m.Data["vm-data/x"] = strings.Repeat("\x01", 4096) }, "line"},
		"much data": {func(_ *qemu.Options, m *xapisim.Machine) {
			for i := range 20 {
				m.Data[fmt.Sprintf("vm-data/x%d", i)] = strings.Repeat("x", 4096)
			}
		}, "65536"},
		"disk": {func(_ *qemu.Options, m *xapisim.Machine) {
			m.Disks = []xapisim.Disk{{UserDevice: "0", Path: "/nonexistent"}}
		}, "/nonexistent"},
		"two disks": {func(_ *qemu.Options, m *xapisim.Machine) { m.Disks = []xapisim.Disk{disk(t, "0"), disk(t, "0")} }, "two disks"},
	} {
		if err := attempt(c.change); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPlugAndUnplug(t *testing.T) {
	m := machine("plain")
	m.Disks = []xapisim.Disk{disk(t, "0")}
	guest, _ := start(t, qemu.Options{BlockSize: 4096}, m)
	d := disk(t, "4")
	if err := guest.Plug(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	added := await(t, guest, "data/added")
	for _, want := range []string{`"serial":"vbd-4"`, `"logical_block_size":4096`, `"driver":"virtio-blk-pci"`} {
		if !strings.Contains(added, want) {
			t.Errorf("%s has no %s", added, want)
		}
	}
	if err := guest.Plug(t.Context(), d); err == nil {
		t.Error("a device was plugged twice")
	}
	if err := guest.Unplug(limit(t, 10*time.Second), "4"); err != nil {
		t.Fatal(err)
	}
	if err := guest.Unplug(t.Context(), "4"); err == nil {
		t.Error("a device was unplugged twice")
	}
	if err := guest.Plug(t.Context(), d); err != nil {
		t.Error(err)
	}
	if err := guest.Unplug(limit(t, 10*time.Second), "0"); err != nil {
		t.Errorf("a disk of the start: %v", err)
	}
	for _, bad := range []xapisim.Disk{{UserDevice: "x", Path: d.Path}, {UserDevice: "9", Path: "/nonexistent"}} {
		for range 2 { // a plug that failed leaves nothing
			if err := guest.Plug(t.Context(), bad); err == nil || strings.Contains(err.Error(), "still there") {
				t.Errorf("%+v: %v", bad, err)
			}
		}
	}
}

func TestPlugIntoAFullMachine(t *testing.T) {
	guest, _ := start(t, qemu.Options{}, machine("full"))
	d := disk(t, "1")
	for range 2 {
		if err := guest.Plug(t.Context(), d); err == nil || !strings.Contains(err.Error(), "no slot") {
			t.Errorf("%v", err)
		}
	}
}

func TestUnplugOfUnwillingGuests(t *testing.T) {
	for behaviour, want := range map[string]error{"refuses": xapisim.ErrDetachRejected, "holds": context.DeadlineExceeded, "late": nil} {
		t.Run(behaviour, func(t *testing.T) {
			t.Parallel()
			guest, _ := start(t, qemu.Options{}, machine(behaviour))
			d := disk(t, "2")
			if err := guest.Plug(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			timeout := 300 * time.Millisecond
			if want == nil {
				timeout = 10 * time.Second // the request is repeated after two
			}
			if err := guest.Unplug(limit(t, timeout), "2"); !errors.Is(err, want) {
				t.Fatalf("%v", err)
			}
			if want == nil {
				return
			}
			if err := guest.Plug(t.Context(), d); err == nil {
				t.Error("a disk that was not let go could be plugged again")
			}
			if err := guest.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := guest.Unplug(limit(t, 10*time.Second), "2"); err != nil {
				t.Errorf("a dead machine still holds its disk: %v", err)
			}
		})
	}
}

func TestShutdown(t *testing.T) {
	guest, dir := start(t, qemu.Options{}, machine("plain"))
	if err := guest.Shutdown(limit(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	<-guest.Done()
	tree, err := guest.Tree()
	if err != nil || tree["vm-data/understudy/out/cause"] != "shutdown requested" { // the last words
		t.Errorf("%v, %v", tree, err)
	}
	if _, there := tree["control/shutdown"]; there {
		t.Error("the request stands")
	}
	if content, err := os.ReadFile(filepath.Join(dir, "port.log")); err != nil || !strings.Contains(string(content), `pool: {"write":{"control/shutdown":"poweroff"}}`) {
		t.Errorf("port.log: %s, %v", content, err)
	}
	if err := guest.Pause(); err == nil {
		t.Error("a machine that is gone was paused")
	}
}

func TestShutdownOfADeafGuest(t *testing.T) {
	guest, _ := start(t, qemu.Options{}, machine("deaf"))
	if err := guest.Shutdown(limit(t, 150*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("acknowledged: %v", err)
	}
}

func TestPause(t *testing.T) {
	guest, _ := start(t, qemu.Options{}, machine("plain"))
	if err := guest.Pause(); err != nil {
		t.Fatal(err)
	}
	for await(t, guest, "data/last") != "stop" {
		time.Sleep(time.Millisecond)
	}
	if err := guest.Unpause(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); await(t, guest, "data/last") != "cont"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not continued")
		}
	}
}

func TestData(t *testing.T) {
	guest, _ := start(t, qemu.Options{}, machine("plain"))
	await(t, guest, "vm-data/understudy/out/identity")
	tree, err := guest.Tree()
	if value, ok := tree["vm-data/understudy/in"]; err != nil || !ok || value != "" {
		t.Errorf("a directory is no key with an empty value: %v, %v", tree, err)
	}
	if err := guest.SetData(map[string]string{"vm-data/live": "a\nb<>"}); err != nil {
		t.Fatal(err)
	}
	if tree, err = guest.Tree(); err != nil || tree["vm-data/live"] != "a\nb<>" || tree["vm-data/understudy/out/identity"] != "" {
		t.Errorf("%v, %v", tree, err)
	}
	want := []string{
		`{"remove":["vm-data/understudy/in/nonce"]}`, `{"remove":["vm-data/understudy/out"]}`,
		`{"remove":["vm-data/understudy/out/identity"]}`, `{"write":{"vm-data/live":"a\nb<>"}}`,
	}
	for i, line := range want {
		if got := await(t, guest, fmt.Sprintf("data/told/%d", i)); got != line {
			t.Errorf("line %d: %s, not %s", i, got, line)
		}
	}
	if err := guest.SetData(map[string]string{"attr/x": "1"}); err == nil {
		t.Error("SetData took a key that is none of vm-data")
	}
}

// What a guest must not write is refused line by line, and the rest counts.
func TestRefusedLines(t *testing.T) {
	guest, dir := start(t, qemu.Options{}, machine("plain"))
	for i, line := range []string{
		`not JSON`, `{"write":{"device/vbd":"1"}}`, `{"write":{"data/a b":"1"}}`, `{"write":{"data//x":"1"}}`, `{"write":{"data/":"1"}}`,
		`{"write":{"data/good":"1","data/../bad":"1"}}`, `{"remove":["/"]}`, `{"shout":1}`, `{} {}`,
		`{"write":{"data/long":"LONG"}}`, `LONGLONG`,
	} {
		err := guest.SetData(map[string]string{"vm-data/say1": line, "vm-data/say2": fmt.Sprintf(`{"write":{"data/after":"%d"}}`, i)})
		if err != nil {
			t.Fatal(i, err)
		}
		for deadline := time.Now().Add(10 * time.Second); await(t, guest, "data/after") != fmt.Sprint(i); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the guest is not heard after %s", line)
			}
		}
	}
	tree, err := guest.Tree()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"device/vbd", "data/a b", "data/good", "data/../bad", "data/long"} {
		if _, there := tree[key]; there {
			t.Errorf("%s was taken", key)
		}
	}
	content, err := os.ReadFile(filepath.Join(dir, "port.log"))
	if err != nil || strings.Count(string(content), "refused") != 11 {
		t.Errorf("%s, %v", content, err)
	}
}
