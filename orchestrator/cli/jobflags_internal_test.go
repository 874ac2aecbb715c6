package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

func plainJob() job.Definition {
	return job.Definition{Name: "nightly", Source: "east", Target: "west", SR: "backup", VMs: []job.Selector{{Name: "web"}}}
}

func fullJob() job.Definition {
	return job.Definition{
		Name: "nightly", Source: "east", Target: "west", SR: "backup",
		VMs:     []job.Selector{{Pattern: "web-*"}, {Tag: "gold"}, {Name: "web-1, old", Exclude: true}},
		DiskSRs: map[string]string{"1": "fast", "10": "slow", "2": "fast"}, Networks: map[string]string{"lan": "lan-dr"}, NamePattern: "{vm}-dr",
		Options: job.Options{
			Method: report.Standard, Direction: report.Pull, Trust: true, KeepTarget: true, NewMACs: true, CBT: "off", ReadBack: "full", Consistency: report.ConsistencyPaused,
			Limit:     ratelimit.Schedule{{BytesPerSecond: 20e6, From: 8 * 60, To: 18 * 60}, {BytesPerSecond: 50e6}},
			Retention: 5, RequireRestorePoint: true, DropVTPM: true, Parallel: 4,
		},
	}
}

// fullFlags make fullJob of one that has a name alone.
var fullFlags = []string{
	"--from", "east", "--to", "west", "--sr", "backup", "--vm", "web-*", "--vm", "tag:gold", "--exclude", "web-1, old",
	"--disk-sr", "1=fast,2=fast", "--disk-sr", "10=slow", "--network", "lan=lan-dr", "--name-pattern", "{vm}-dr", "--method", "standard", "--direction", "pull", "--trust",
	"--overwrite=false", "--new-macs", "--verify", "full", "--consistency", "paused", "--cbt", "off", "--limit", "20MB/s 08:00-18:00,50MB/s", "--retention", "5", "--require-restore-point",
	"--drop-vtpm", "--parallel", "4",
}

// edited applies flags to a definition.
func edited(t *testing.T, d job.Definition, edit bool, args ...string) (job.Definition, error) {
	t.Helper()
	c := &cobra.Command{}
	flags := addJobFlags(c)
	if edit {
		flags.addEditFlags()
	}
	if err := c.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	if flags.given() != (len(args) > 0) {
		t.Errorf("%d arguments, and given says %v", len(args), flags.given())
	}
	return d, flags.apply(&d)
}

func TestFlagsMakeADefinition(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want job.Definition
	}{
		"what is needed": {[]string{"--from", "east", "--to", "west", "--sr", "backup", "--vm", "web"}, plainJob()},
		"everything":     {fullFlags, fullJob()},
	} {
		got, err := edited(t, job.Definition{Name: "nightly"}, false, c.args...)
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestEditChangesOnlyWhatIsGiven(t *testing.T) {
	web, old := job.Selector{Name: "web"}, job.Selector{Name: "web-1, old", Exclude: true}
	for name, c := range map[string]struct {
		args   []string
		change func(*job.Definition)
	}{
		"nothing":           {nil, func(*job.Definition) {}},
		"name":              {[]string{"--name", "weekly"}, func(d *job.Definition) { d.Name = "weekly" }},
		"selectors":         {[]string{"--vm", "web"}, func(d *job.Definition) { d.VMs = []job.Selector{old, web} }},
		"exclusions":        {[]string{"--exclude", "web"}, func(d *job.Definition) { d.VMs[2] = job.Selector{Name: "web", Exclude: true} }},
		"added":             {[]string{"--add-vm", "web", "--add-vm", "tag:gold"}, func(d *job.Definition) { d.VMs = append(d.VMs, web) }},
		"removed":           {[]string{"--remove-vm", "pattern:web-*"}, func(d *job.Definition) { d.VMs = d.VMs[1:] }},
		"an exclusion gone": {[]string{"--remove-vm", "!name:web-1, old"}, func(d *job.Definition) { d.VMs = d.VMs[:2] }},
		"maps":              {[]string{"--network", "dmz=lan"}, func(d *job.Definition) { d.Networks = map[string]string{"dmz": "lan"} }},
		"switched off":      {[]string{"--trust=false", "--drop-vtpm=false"}, func(d *job.Definition) { d.Options.Trust, d.Options.DropVTPM = false, false }},
		"overwritten again": {[]string{"--overwrite"}, func(d *job.Definition) { d.Options.KeepTarget = false }},
		"unlimited":         {[]string{"--limit", ""}, func(d *job.Definition) { d.Options.Limit = nil }},
		"numbers":           {[]string{"--retention", "1", "--parallel", "1"}, func(d *job.Definition) { d.Options.Retention, d.Options.Parallel = 1, 1 }},
	} {
		want := fullJob()
		c.change(&want)
		got, err := edited(t, fullJob(), true, c.args...)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestFlagsThatMakeNoSenseAreWrongUsage(t *testing.T) {
	for _, c := range []struct {
		want string
		args []string
	}{
		{"push or pull", []string{"--direction", "sideways"}},
		{"none, sample or full", []string{"--verify", "some"}},
		{"disk or paused", []string{"--consistency", "vm"}},
		{"no rate", []string{"--limit", "fast"}},
		{"--retention 0", []string{"--retention", "0"}},
		{"keep 1 to 16", []string{"--retention", "17"}},
		{"--parallel -1", []string{"--parallel", "-1"}},
		{"1 to 64", []string{"--parallel", "65"}},
		{"number of its device", []string{"--disk-sr", "xvda=fast"}},
		{"give it with --exclude", []string{"--vm", "!web"}},
		{"needs one of", []string{"--vm", "tag:"}},
		{"something that chooses", []string{"--remove-vm", "web"}},
		{"it has name:web", []string{"--remove-vm", "mail"}},
		{"job's name", []string{"--name", " "}},
	} {
		_, err := edited(t, plainJob(), true, c.args...)
		if exitCode(err) != exitUsage || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want wrong usage that says %q", c.args, err, c.want)
		}
	}
}
