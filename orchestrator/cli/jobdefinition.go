package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

// writeDefinition tells people what a job orders, defaults included. poolName gives the name of a pool for its uuid.
func writeDefinition(w *strings.Builder, d job.Definition, poolName func(uuid string) string) {
	o := d.Options
	rows := [][2]string{
		{"VMs", selectorTexts(d.VMs)},
		{"from", "pool " + poolName(d.Source)},
		{"to", "pool " + poolName(d.Target) + ", SR " + d.SR},
	}
	for _, disk := range slices.SortedFunc(maps.Keys(d.DiskSRs), byNumber) {
		rows = append(rows, [2]string{"disk " + disk, "SR " + d.DiskSRs[disk]})
	}
	for _, network := range slices.Sorted(maps.Keys(d.Networks)) {
		rows = append(rows, [2]string{"network " + network, d.Networks[network]})
	}
	rows = append(rows,
		[2]string{"replica's name", cmp.Or(d.NamePattern, "{vm} (replica)")},
		[2]string{"method", string(cmp.Or(o.Method, report.Enhanced))},
		[2]string{"direction", string(cmp.Or(o.Direction, report.Push))},
		[2]string{"trust", choice(o.Trust, "the destination is trusted where the evidence allows", "every run scans the replica")},
		[2]string{"a replica is there", choice(o.KeepTarget, "the run fails", "it is brought up to date")},
		[2]string{"MAC addresses", choice(o.NewMACs, "new ones", "those of the source")},
		[2]string{"change tracking", choice(o.CBT == "off", "off", "used where it is to be had")},
		[2]string{"read back", cmp.Or(o.ReadBack, "sample")},
		[2]string{"consistency", choice(o.Consistency == report.ConsistencyPaused, "VMs that run are paused while they are snapshotted", "disk")},
		[2]string{"limit", limitText(o.Limit)},
		[2]string{"restore points", strconv.Itoa(cmp.Or(o.Retention, job.DefaultRetention)) +
			choice(o.RequireRestorePoint, ", required", "")},
		[2]string{"virtual TPM", choice(o.DropVTPM, "dropped", "such a VM is refused")},
		[2]string{"at a time", strconv.Itoa(cmp.Or(o.Parallel, job.DefaultParallel)) + " VMs"},
	)
	width := 0
	for _, row := range rows {
		width = max(width, len([]rune(row[0])))
	}
	for _, row := range rows {
		fmt.Fprintf(w, "  %-*s  %s\n", width, row[0], row[1])
	}
}

// byNumber orders the numbers of disks.
func byNumber(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) }

func choice(yes bool, ifYes, ifNo string) string {
	if yes {
		return ifYes
	}
	return ifNo
}

func limitText(s ratelimit.Schedule) string {
	if len(s) == 0 {
		return "none"
	}
	return s.String()
}

func selectorTexts(selectors []job.Selector) string {
	texts := make([]string, len(selectors))
	for i, s := range selectors {
		texts[i] = s.String()
	}
	return strings.Join(texts, ", ")
}
