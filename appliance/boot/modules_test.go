package boot_test

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/appliance/boot"
)

func TestCommandLine(t *testing.T) {
	for text, want := range map[string][]string{
		"":                               nil,
		"  \n":                           nil,
		"quiet":                          {"quiet"},
		" console=tty0\tpanic=5\n":       {"console=tty0", "panic=5"},
		`a.b="x y"  "c.d=e f" g`:         {`a.b="x y"`, `"c.d=e f"`, "g"},
		"before -- after.this=1":         {"before"},
		"--x y--":                        {"--x", "y--"},
		`open="never closed -- and more`: {`open="never closed -- and more`},
	} {
		if got := boot.ParseCommandLine(text); !slices.Equal(got, want) {
			t.Errorf("%q gives %q, want %q", text, got, want)
		}
	}
}

func TestModuleParameters(t *testing.T) {
	words := boot.ParseCommandLine(`quiet xen_blkfront.max_ring_page_order=3 xen-blkfront.b="x y" "xen_blkfront.c=d e" xen_blkfront. xen_blkfront` +
		` nf.xen_blkfront=1 softdog.nowayout other.a=b.c=d`)
	for module, want := range map[string]string{
		"xen-blkfront": `max_ring_page_order=3 b="x y" "c=d e"`,
		"xen_blkfront": `max_ring_page_order=3 b="x y" "c=d e"`,
		"softdog":      "nowayout",
		"other":        "a=b.c=d",
		"quiet":        "",
		"absent":       "",
	} {
		if got := boot.ModuleParameters(words, module); got != want {
			t.Errorf("%s gets %q, want %q", module, got, want)
		}
	}
}

func FuzzCommandLine(f *testing.F) {
	f.Add(`console=tty0 quiet xen_blkfront.max_ring_page_order=3 a.b="x y" "c.d=e f" -- init`)
	f.Add("a.\"b c\".d=\x00 -- \" --")
	f.Fuzz(func(t *testing.T, text string) {
		words := boot.ParseCommandLine(text)
		for _, word := range words {
			if word == "" || word == "--" || !strings.Contains(text, word) {
				t.Fatalf("%q gives the word %q", text, word)
			}
		}
		// Once more from the words joined gives the words again, unless the last one's quote was never closed.
		if again := boot.ParseCommandLine(strings.Join(words, " ")); !slices.Equal(again, words) {
			t.Fatalf("%q gives %q, and these %q", text, words, again)
		}
		_ = boot.ModuleParameters(words, "a")
	})
}

// modules puts a kernel's modules into the world.
func (w *world) modules(list, dependencies string) {
	const directory = "/lib/modules/" + fakeRelease + "/"
	w.write("/etc/modules", list)
	w.write(directory+"modules.dep", dependencies)
	for line := range strings.Lines(dependencies) {
		if file, _, ok := strings.Cut(line, ":"); ok {
			w.write(directory+file, "ELF")
		}
	}
}

func TestModules(t *testing.T) {
	w := newWorld(t)
	w.modules("# first\nxen-blkfront\n\nvirtio_net\n sch_netem \nxen-wdt\nloop\nzram\n", ""+
		"kernel/drivers/block/xen-blkfront.ko:\n"+
		"kernel/net/virtio_net.ko: kernel/net/failover.ko kernel/virtio/virtio.ko kernel/virtio/virtio-ring.ko\n"+
		"kernel/net/failover.ko:\n"+
		"kernel/virtio/virtio.ko: kernel/virtio/virtio-ring.ko\n"+
		"kernel/virtio/virtio-ring.ko:\n"+
		"kernel/net/sched/sch_netem.ko: kernel/net/failover.ko\n"+
		"kernel/drivers/watchdog/xen_wdt.ko:\n")
	w.write("/proc/cmdline", "xen_blkfront.max_ring_page_order=3 virtio_ring.trace=1 quiet\n")
	w.write("/lib/modules/"+fakeRelease+"/modules.builtin", "kernel/drivers/block/loop.ko\n")
	w.write("/sys/module/zram/parameters/x", "")
	w.write("/sys/module/xen_blkfront/parameters/max_ring_page_order", "3\n")
	w.fails["load failover"] = unix.EEXIST // something loaded it before
	w.fails["load xen_wdt"] = unix.ENODEV
	w.boot(w.options())
	want := []string{
		"load xen-blkfront.ko max_ring_page_order=3", "load virtio-ring.ko trace=1", "load virtio.ko", "load failover.ko",
		"load virtio_net.ko", "load sch_netem.ko", "load xen_wdt.ko",
	}
	if got := w.asked("load"); !slices.Equal(got, want) {
		t.Errorf("loaded %q, want %q", got, want)
	}
	if line := w.awaitLine("modules"); !strings.Contains(line, `loaded="xen_blkfront virtio_net sch_netem loop zram" without_device=xen_wdt`) {
		t.Errorf("the console says %q", line)
	}
	w.awaitLine("xen_blkfront max_ring_page_order=3")
}

// What the image has beside PID 1's list is loaded when it is asked for, once, with what it needs.
func TestLoadModule(t *testing.T) {
	w := newWorld(t)
	w.modules("a\n", "a.ko:\nnet/sch-late.ko: c.ko a.ko\nc.ko:\n")
	w.write("/proc/cmdline", "sch_late.x=1\n")
	w.boot(w.options())
	system := w.options().System
	if got := w.asked("load"); !slices.Equal(got, []string{"load a.ko"}) {
		t.Errorf("at boot %q were loaded", got)
	}
	w.fails["load a.ko"] = unix.EEXIST
	if err := system.LoadModule("sch_late"); err != nil {
		t.Fatal(err)
	}
	if got := w.asked("load")[1:]; !slices.Equal(got, []string{"load a.ko", "load c.ko", "load sch-late.ko x=1"}) {
		t.Errorf("loaded %q", got)
	}
	if err := system.LoadModule("nothere"); err == nil || !strings.Contains(err.Error(), "build the image again") {
		t.Errorf("a module that is not there: %v", err)
	}
}

func TestModulesFail(t *testing.T) {
	for name, test := range map[string]struct {
		list, dependencies string
		prepare            func(w *world)
		want               string
	}{
		"not in the image":  {"nothere\n", "a.ko:\n", nil, "module nothere is neither in"},
		"refused":           {"a\n", "a.ko:\n", func(w *world) { w.fails["load a.ko"] = unix.EKEYREJECTED }, "module a (parameters"},
		"file missing":      {"a\n", "a.ko: b.ko\nb.ko:\n", func(w *world) { w.remove("/lib/modules/" + fakeRelease + "/b.ko") }, "for module a: module b: open"},
		"dependency absent": {"a\n", "a.ko: b.ko\n", nil, "for module a: module b is neither in"},
		"no list":           {"a\n", "a.ko:\n", func(w *world) { w.remove("/lib/modules") }, "list of modules: open"},
		"broken list":       {"a\n", "a.ko b.ko\n", nil, "is not 'module: needed modules'"},
		"huge list":         {strings.Repeat("#\n", 3<<20), "", nil, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.modules(test.list, test.dependencies)
			if test.prepare != nil {
				test.prepare(w)
			}
			w.boot(w.options())
			if line := w.awaitLine(test.want); !strings.Contains(line, "warn: ") {
				t.Errorf("the console says %q", line)
			}
		})
	}
}

// Modules that need each other are a broken image, not an endless loop.
func TestModuleCircle(t *testing.T) {
	w := newWorld(t)
	w.modules("a\n", "a.ko: b.ko\nb.ko: a.ko\n")
	w.boot(w.options())
	if got := w.asked("load"); !slices.Equal(got, []string{"load b.ko", "load a.ko"}) {
		t.Errorf("loaded %q", got)
	}
}

// Without a list all is built in, and nothing is to be said.
func TestNoModules(t *testing.T) {
	w := newWorld(t)
	w.boot(w.options())
	if line := w.awaitLine("modules"); strings.Contains(line, "warn") || w.asked("load") != nil {
		t.Errorf("the console says %q, loaded %q", line, w.asked("load"))
	}
}

func FuzzDependencies(f *testing.F) {
	f.Add("kernel/a-b.ko: kernel/c.ko\nkernel/c.ko:\n# comment\n")
	f.Add(":\n")
	f.Fuzz(func(t *testing.T, text string) {
		modules, err := boot.ParseDependencies(text)
		if err != nil {
			return
		}
		for name := range modules {
			if name == "" || strings.Contains(name, "-") {
				t.Fatalf("%q has a module %q", text, name)
			}
		}
	})
}
