package cli

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

// jobFlags are the flags that make or change a definition. Each one that was given is an edit, in the order in which the flags
// were defined; what no flag speaks of stays as it is.
type jobFlags struct {
	command *cobra.Command
	edits   []jobEdit
}

type jobEdit struct {
	flag string
	do   func(*job.Definition) error
}

// methodUsage explains the methods.
const methodUsage = "who moves the data: `enhanced`, delegates, what differs; or standard, the pools' own export and import, everything"

// addJobFlags defines the flags that 'job create' and 'job edit' share.
func addJobFlags(c *cobra.Command) *jobFlags {
	f := &jobFlags{command: c}
	f.text("from", "`pool` of the VMs", func(d *job.Definition, pool string) error { d.Source = pool; return nil })
	f.text("to", "`pool` of the replicas; may be the same", func(d *job.Definition, pool string) error { d.Target = pool; return nil })
	f.text("sr", "storage repository of the replicas, by `name` or uuid", func(d *job.Definition, sr string) error { d.SR = sr; return nil })
	f.selectors("vm", "which VMs: a uuid, a name, a pattern of names such as 'web-*', or 'tag:NAME'; any number of `selectors`", replaceSelectors(false))
	f.selectors("exclude", "which VMs not, whatever chooses them; any number of `selectors`", replaceSelectors(true))
	f.pairs("disk-sr", "where a disk lies that is not to lie on --sr, by the number of its device: `DISK=SR`",
		func(d *job.Definition, srs map[string]string) { d.DiskSRs = srs })
	f.pairs("network", "target network for a source network, by name: `SOURCE=TARGET`; else that of the same name",
		func(d *job.Definition, networks map[string]string) { d.Networks = networks })
	f.text("name-pattern", "`name` of a replica, with {vm} for that of its source; else '{vm} (replica)'",
		func(d *job.Definition, pattern string) error { d.NamePattern = pattern; return nil })
	f.text("method", methodUsage+"; else enhanced",
		func(d *job.Definition, method string) error { d.Options.Method = report.Method(method); return nil })
	f.text("direction", "which delegate dials the other: `push` or pull; else push",
		func(d *job.Definition, direction string) error {
			d.Options.Direction = report.Direction(direction)
			return nil
		})
	f.yes("trust", "trust the integrity of the destination: skip its scan where the evidence allows",
		func(d *job.Definition, yes bool) { d.Options.Trust = yes })
	f.yes("overwrite", "bring a replica that is there up to date; with =false it is an error that there is one",
		func(d *job.Definition, yes bool) { d.Options.KeepTarget = !yes })
	f.command.Flags().Lookup("overwrite").DefValue = "true"
	f.yes("new-macs", "have the target pool draw the MAC addresses of replicas; else they are the source's",
		func(d *job.Definition, yes bool) { d.Options.NewMACs = yes })
	f.text("verify", "what of a replica is read back before the commit: none, a `sample` (all of it within 32 runs) or full; else sample",
		func(d *job.Definition, amount string) error { d.Options.ReadBack = amount; return nil })
	f.text("consistency", "how the disks of VMs that run are snapshotted: `disk` after disk, or with the VM paused meanwhile; else disk",
		func(d *job.Definition, consistency string) error {
			d.Options.Consistency = report.Consistency(consistency)
			return nil
		})
	f.text("cbt", "whether the change tracking of the source's storage spares reading: `on`, where it is to be had, or off; else on",
		func(d *job.Definition, use string) error { d.Options.CBT = use; return nil })
	f.text("limit", "how fast each VM's delegate may send, by the orchestrator's hours: `RULES` such as '20MB/s 08:00-18:00,50MB/s'",
		func(d *job.Definition, rules string) (err error) {
			d.Options.Limit, err = ratelimit.Parse(rules)
			return err
		})
	f.number("retention", "`number` of restore points to keep of each replica, 1 to 16; else 3",
		func(d *job.Definition, n int) { d.Options.Retention = n })
	f.yes("require-restore-point", "fail before the first write where no new restore point could be taken",
		func(d *job.Definition, yes bool) { d.Options.RequireRestorePoint = yes })
	f.yes("drop-vtpm", "replicate a VM with a virtual TPM without it; else such a VM is refused",
		func(d *job.Definition, yes bool) { d.Options.DropVTPM = yes })
	f.number("parallel", "`number` of VMs at a time; else 2", func(d *job.Definition, n int) { d.Options.Parallel = n })
	return f
}

// addEditFlags defines the flags that only a job that is there has a use for.
func (f *jobFlags) addEditFlags() {
	f.text("name", "another `name` for the job", func(d *job.Definition, name string) error { d.Name = name; return nil })
	f.selectors("add-vm", "`selectors` to add; '!' before one excludes", func(d *job.Definition, add []job.Selector) error {
		for _, s := range add {
			if !slices.Contains(d.VMs, s) {
				d.VMs = append(d.VMs, s)
			}
		}
		return nil
	})
	f.selectors("remove-vm", "`selectors` to remove, as 'job show' writes them", func(d *job.Definition, remove []job.Selector) error {
		for _, s := range remove {
			i := slices.Index(d.VMs, s)
			if i < 0 {
				return usagef("--remove-vm %s: the job has no such selector; it has %s", s, selectorTexts(d.VMs))
			}
			d.VMs = slices.Delete(d.VMs, i, i+1)
		}
		return nil
	})
}

// replaceSelectors puts selectors in the place of those that choose, or of those that exclude.
func replaceSelectors(exclude bool) func(*job.Definition, []job.Selector) error {
	return func(d *job.Definition, with []job.Selector) error {
		kept := slices.DeleteFunc(slices.Clone(d.VMs), func(s job.Selector) bool { return s.Exclude == exclude })
		for _, s := range with {
			if s.Exclude && !exclude {
				return usagef("--vm %s: it excludes: give it with --exclude", s)
			}
			s.Exclude = exclude
			kept = append(kept, s)
		}
		d.VMs = kept
		return nil
	}
}

// apply edits a definition as the flags say. The error is one of usage.
func (f *jobFlags) apply(d *job.Definition) error {
	for _, edit := range f.edits {
		if f.command.Flags().Changed(edit.flag) {
			if err := edit.do(d); err != nil {
				return usageError{err}
			}
		}
	}
	if err := d.Validate(); err != nil {
		return usageError{err}
	}
	return nil
}

// given reports whether any of the flags was given.
func (f *jobFlags) given() bool {
	return slices.ContainsFunc(f.edits, func(e jobEdit) bool { return f.command.Flags().Changed(e.flag) })
}

// edit keeps what a flag does when it is given.
func (f *jobFlags) edit(flag string, do func(*job.Definition) error) {
	f.edits = append(f.edits, jobEdit{flag, do})
}

func (f *jobFlags) text(flag, usage string, set func(*job.Definition, string) error) {
	value := f.command.Flags().String(flag, "", usage)
	f.edit(flag, func(d *job.Definition) error { return set(d, *value) })
}

func (f *jobFlags) yes(flag, usage string, set func(*job.Definition, bool)) {
	value := f.command.Flags().Bool(flag, false, usage)
	f.edit(flag, func(d *job.Definition) error { set(d, *value); return nil })
}

func (f *jobFlags) number(flag, usage string, set func(*job.Definition, int)) {
	value := f.command.Flags().Int(flag, 0, usage)
	f.edit(flag, func(d *job.Definition) error {
		if *value < 1 {
			return usagef("--%s %d: it is 1 or more", flag, *value)
		}
		set(d, *value)
		return nil
	})
}

func (f *jobFlags) pairs(flag, usage string, set func(*job.Definition, map[string]string)) {
	value := f.command.Flags().StringToString(flag, nil, usage)
	f.edit(flag, func(d *job.Definition) error { set(d, *value); return nil })
}

func (f *jobFlags) selectors(flag, usage string, set func(*job.Definition, []job.Selector) error) {
	value := f.command.Flags().StringArray(flag, nil, usage) // no slice: names may hold commas
	f.edit(flag, func(d *job.Definition) error {
		selectors := make([]job.Selector, len(*value))
		for i, text := range *value {
			var err error
			if selectors[i], err = job.ParseSelector(text); err != nil {
				return usagef("--%s %q: %w", flag, text, err)
			}
		}
		return set(d, selectors)
	})
}
