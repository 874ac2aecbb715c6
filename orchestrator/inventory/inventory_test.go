package inventory_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

func load(t *testing.T, fake *fakePool) *inventory.Pool {
	t.Helper()
	pool, err := inventory.Load(t.Context(), fake)
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func TestLoadAppliesWhatChangedMeanwhile(t *testing.T) {
	fake := smallPool()
	fake.next = []xapi.Event{
		event("vm", "add", "new", record{"uuid": "uuid-new", "name_label": "new"}),
		event("vm", "mod", "mail", record{"uuid": "uuid-mail", "name_label": "post", "power_state": "Running"}),
		event("vm", "del", "web2", nil),
		event("vdi", "del", "never-seen", nil),
		event("task", "add", "t", record{}), // a class nobody asked for
	}
	fake.counts = func() map[string]int64 { return map[string]int64{"vm": 10, "vdi": 5, "task": 99} }
	pool := load(t, fake)
	if pool.Name != "one" || pool.UUID != "uuid-pool" || pool.Coordinator != "h1" {
		t.Errorf("pool %q %q %q", pool.Name, pool.UUID, pool.Coordinator)
	}
	if len(pool.VMs) != 10 || pool.VMs["new"].UUID != "uuid-new" || pool.VMs["mail"].NameLabel != "post" || pool.VMs["mail"].VBDs != nil {
		t.Errorf("VMs %+v", pool.VMs)
	}
	if fake.token != "after [pool pool]" || fake.timeout != 0 || !slices.Contains(fake.classes, "vm") {
		t.Errorf("waited for %v with token %q and %v", fake.classes, fake.token, fake.timeout)
	}
	if pool.FreeMemory["h1"] != 10 || pool.FreeMemory["h2"] != 20 {
		t.Errorf("free memory %v", pool.FreeMemory)
	}
}

func TestLoadStartsAgainWhenADeletionWasMissed(t *testing.T) {
	fake := smallPool()
	reads := 0
	fake.counts = func() map[string]int64 {
		if reads++; reads == 1 {
			delete(fake.tables["VM"], "web2") // the deletion is not among the events
		}
		return map[string]int64{"vm": 9}
	}
	if pool := load(t, fake); len(pool.VMs) != 9 || reads != 2 {
		t.Errorf("%d VMs after %d readings", len(pool.VMs), reads)
	}
	fake.counts = func() map[string]int64 { return map[string]int64{"vm": 1000} }
	if _, err := inventory.Load(t.Context(), fake); err == nil || !strings.Contains(err.Error(), "vm") {
		t.Errorf("an inconsistent view was returned: %v", err)
	}
}

func TestLoadFails(t *testing.T) {
	for _, method := range []string{"pool.get_all", "event.inject", "VDI.get_all_records", "host.compute_free_memory"} {
		fake := smallPool()
		fake.fail[method] = &xapi.Error{Code: "RBAC_PERMISSION_DENIED", Method: method}
		if _, err := inventory.Load(t.Context(), fake); !xapi.IsCode(err, "RBAC_PERMISSION_DENIED") {
			t.Errorf("%s: %v", method, err)
		}
	}
}

func TestFindVM(t *testing.T) {
	pool := load(t, smallPool())
	for _, name := range []string{"mail", "uuid-mail", "UUID-MAIL"} {
		if vm, err := pool.FindVM(name); err != nil || vm.Ref != "mail" || vm.NameLabel != "mail" {
			t.Errorf("%s: %v, %v", name, vm.Ref, err)
		}
	}
	var ambiguous *inventory.AmbiguousError
	if _, err := pool.FindVM("web"); !errors.As(err, &ambiguous) || fmt.Sprint(ambiguous.UUIDs) != "[uuid-second-web uuid-web]" {
		t.Errorf("web: %v", err)
	}
	if vm, err := pool.FindVM("uuid-second-web"); err != nil || vm.Ref != "web2" {
		t.Errorf("by uuid: %v, %v", vm.Ref, err)
	}
	var missing *inventory.NotFoundError
	for name, near := range map[string]string{"mial": "[mail]", "Mail": "[mail]", "ai": "[mail]", "we": "[web]", "nothing alike": "[]", "": "[]"} {
		if _, err := pool.FindVM(name); !errors.As(err, &missing) || fmt.Sprint(missing.Near) != near {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, uuid := range []string{"uuid-snapshot", "uuid-template", "uuid-Control domain", "Control domain"} {
		if vm, err := pool.FindVM(uuid); !errors.As(err, &missing) {
			t.Errorf("%s is no VM, but %v was found", uuid, vm.Ref)
		}
	}
}

func TestFindSR(t *testing.T) {
	pool := load(t, smallPool())
	if sr, err := pool.FindSR("shared"); err != nil || sr.Ref != "shared" {
		t.Errorf("%v, %v", sr.Ref, err)
	}
	var ambiguous *inventory.AmbiguousError
	if _, err := pool.FindSR("Local storage"); !errors.As(err, &ambiguous) || len(ambiguous.UUIDs) != 2 {
		t.Errorf("got %v", err)
	}
	var missing *inventory.NotFoundError
	if _, err := pool.FindSR("isos"); !errors.As(err, &missing) {
		t.Errorf("an ISO repository was found: %v", err)
	}
}

func TestDisksOf(t *testing.T) {
	fake := smallPool()
	disks, err := load(t, fake).DisksOf("mail")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, disk := range disks {
		found = append(found, fmt.Sprintf("%d %s %s %s", disk.Number, disk.VBDRef, disk.VDIRef, disk.VDI.UUID))
	}
	if want := []string{"0 b0 d0 u0", "2 b2 d2 u2", "10 b10 d10 u10"}; !slices.Equal(found, want) {
		t.Errorf("got %q, want %q", found, want)
	}
	for name, spoil := range map[string]func(){
		"no number": func() { fake.tables["VBD"]["b2"]["userdevice"] = "xvdc" },
		"no VDI":    func() { delete(fake.tables["VDI"], "d0") },
		"no VBD":    func() { delete(fake.tables["VBD"], "b0") },
		"no VM":     func() { delete(fake.tables["VM"], "mail") },
	} {
		fake = smallPool()
		spoil()
		if disks, err := load(t, fake).DisksOf("mail"); err == nil {
			t.Errorf("%s: %d disks", name, len(disks))
		}
	}
}

func TestHostsSeeing(t *testing.T) {
	names := func(pool *inventory.Pool, srs ...xapi.Ref) string {
		text := ""
		for _, host := range pool.HostsSeeing(srs...) {
			text += host.NameLabel + " "
		}
		return text
	}
	fake := smallPool()
	pool := load(t, fake)
	for srs, want := range map[string]string{"shared": "two one ", "local1": "one ", "local2": "two ", "shared local1": "one ", "local1 local2": "", "nowhere": "", "": "two one "} {
		var refs []xapi.Ref
		for _, sr := range strings.Fields(srs) {
			refs = append(refs, xapi.Ref(sr))
		}
		if got := names(pool, refs...); got != want {
			t.Errorf("%q is seen by %q, not by %q", srs, want, got)
		}
	}
	fake.tables["host"]["h2"]["enabled"] = false
	if got := names(load(t, fake), "shared"); got != "one " {
		t.Errorf("maintenance: %q", got)
	}
	fake.tables["host"]["h2"]["enabled"] = true
	fake.tables["host_metrics"]["m2"]["live"] = false
	if got := names(load(t, fake), "shared"); got != "one " {
		t.Errorf("dead: %q", got)
	}
	delete(fake.tables["host_metrics"], "m2")
	if got := names(load(t, fake), "shared"); got != "one " {
		t.Errorf("without metrics: %q", got)
	}
}

func TestDelegateTemplates(t *testing.T) {
	fake := smallPool()
	templates := load(t, fake).DelegateTemplates()
	if len(templates) != 1 || templates[0].Ref != "image" || templates[0].Version != "1.2" || len(templates[0].Disks) != 1 {
		t.Errorf("got %+v", templates)
	}
	delete(fake.tables["VM"]["copy"]["other_config"].(record), "understudy:self") // imported by hand
	if templates := load(t, fake).DelegateTemplates(); len(templates) != 2 {
		t.Errorf("%d templates", len(templates))
	}
	for _, name := range []string{"image", "copy"} {
		fake.tables["VM"][name]["VIFs"] = []string{}
	}
	if templates := load(t, fake).DelegateTemplates(); len(templates) != 0 {
		t.Errorf("%d templates, all are in the middle of their deployment", len(templates))
	}
	delete(fake.tables["VDI"], "di")
	if templates := load(t, fake).DelegateTemplates(); len(templates) != 0 {
		t.Errorf("%d templates without a disk", len(templates))
	}
}

func TestStorageTypes(t *testing.T) {
	vhdOnLVM := map[string]string{"use_vhd": "true"}
	for _, c := range []struct {
		sr           xapi.SR
		thin, zeroed bool
	}{
		{xapi.SR{Type: "ext"}, true, true},
		{xapi.SR{Type: "nfs"}, true, true},
		{xapi.SR{Type: "smb"}, true, true},
		{xapi.SR{Type: "file"}, true, true},
		{xapi.SR{Type: "zfs"}, true, false},
		{xapi.SR{Type: "lvm"}, false, false},
		{xapi.SR{Type: "lvm", SMConfig: vhdOnLVM}, false, true},
		{xapi.SR{Type: "lvmoiscsi", SMConfig: vhdOnLVM}, false, true},
		{xapi.SR{Type: "udev"}, false, false},
		{xapi.SR{Type: "of tomorrow"}, false, false},
	} {
		if inventory.Thin(c.sr) != c.thin || inventory.ReadsAsZero(c.sr) != c.zeroed {
			t.Errorf("%s %v: thin %v, zeroed %v", c.sr.Type, c.sr.SMConfig, inventory.Thin(c.sr), inventory.ReadsAsZero(c.sr))
		}
	}
	for _, c := range []struct{ size, used, free int64 }{{100, 30, 70}, {100, 120, 0}, {-1, -1, -1}, {0, 0, -1}, {100, -1, -1}} {
		free, known := inventory.FreeSpace(xapi.SR{PhysicalSize: c.size, PhysicalUtilisation: c.used})
		if known != (c.free >= 0) || (known && free != c.free) {
			t.Errorf("%+v: %d, %v", c, free, known)
		}
	}
}

func TestVersions(t *testing.T) {
	ordered := []string{
		"development", "0.9", "1.0-rc1", "1.0", "1.0.1-ffffffff", "1.0.9-ffffffff", "1.0.10-00000000", "1.9", "1.10",
		"2.0.0-rc.9-ffffffff", "2.0.0-rc.10-00000000", "2.0.0-00000000", "3",
	}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := inventory.CompareVersions(a, b); got != cmp.Compare(i, j) {
				t.Errorf("%s and %s compare as %d", a, b, got)
			}
		}
	}
	if got := inventory.CompareVersions("1.2.3-rc.1-ffffffff", "1.2.3-rc.1-00000000"); got != 0 {
		t.Errorf("two builds of one version compare as %d", got)
	}
}

func TestFindNetworkAndHost(t *testing.T) {
	pool := load(t, smallPool())
	for ref, network := range pool.Networks {
		if found, err := pool.FindNetwork(network.UUID); err != nil || found != ref {
			t.Errorf("network %s: %s, %v", network.UUID, found, err)
		}
	}
	for ref, host := range pool.Hosts {
		if found, err := pool.FindHost(host.NameLabel); err != nil || found != ref {
			t.Errorf("host %s: %s, %v", host.NameLabel, found, err)
		}
	}
	var missing *inventory.NotFoundError
	if _, err := pool.FindHost("none"); !errors.As(err, &missing) || missing.Kind != "host" {
		t.Errorf("got %v", err)
	}
}
