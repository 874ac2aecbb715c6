package xapisim_test

import (
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// docs/simulator.md tells of everything that can be switched on.
func TestTheManualIsComplete(t *testing.T) {
	manual := string(read(t, "../../docs/simulator.md"))
	var want []string
	err := xapisim.Lie{Kind: "?", Object: "?"}.Check() // it names all kinds
	for _, kind := range strings.Split(regexp.MustCompile(`want one of (.*)$`).FindStringSubmatch(err.Error())[1], ", ") {
		want = append(want, "| `"+kind+"` |")
	}
	for of, what := range map[string]reflect.Type{"Config": reflect.TypeFor[xapisim.Config](), "SRConfig": reflect.TypeFor[xapisim.SRConfig]()} {
		for n := range what.NumField() {
			switch name := what.Field(n).Name; name {
			case "Name", "Dir", "Hosts", "SRs", "Networks", "Username", "Password", "World", "Address", "Port": // what a pool is, not what it does
			default:
				want = append(want, "`"+of+"."+name+"`")
			}
		}
	}
	for n := range reflect.TypeFor[*xapisim.Pool]().NumMethod() {
		name := reflect.TypeFor[*xapisim.Pool]().Method(n).Name
		switch name {
		case "CrashHost", "BootHost", "RestartToolstack", "Promote", "Trouble", "Restrict", "Coalesce", "Fault", "Lie":
			want = append(want, "`Pool."+name)
		}
	}
	for _, text := range want {
		if !strings.Contains(manual, text) {
			t.Errorf("docs/simulator.md says nothing of %s", text)
		}
	}
}
