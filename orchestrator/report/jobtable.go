package report

import (
	"io"
	"slices"

	"github.com/jedib0t/go-pretty/v6/table"
)

// JobRow is one line of the table of a job's run: one VM, with its disks' counters added up.
type JobRow struct {
	VM    string  `json:"vm"` // its name
	UUID  string  `json:"uuid"`
	State State   `json:"state"`
	Run   string  `json:"run,omitempty"` // id of the VM run
	Disks int     `json:"disks"`
	Size  int64   `json:"size"`
	Read  int64   `json:"read"` // from the source
	Same  int64   `json:"same"`
	Sent  int64   `json:"sent"`
	Wire  int64   `json:"wire"`
	Time  float64 `json:"time_s"` // of the whole VM run; 0 while it lasts
	Error string  `json:"error,omitempty"`
}

// JobRows gives one row a VM, in the run's order. runs are the reports of its VM runs, as far as they are known.
func JobRows(run JobRun, runs []Run) []JobRow {
	rows := make([]JobRow, 0, len(run.VMs))
	for _, vm := range run.VMs {
		row := JobRow{VM: vm.VM.Name, UUID: vm.VM.UUID, State: vm.State, Run: vm.Run, Error: vm.Error}
		if i := slices.IndexFunc(runs, func(r Run) bool { return r.ID == vm.Run }); i >= 0 && vm.Run != "" {
			var sum Counters
			for _, d := range runs[i].Disks {
				row.Disks++
				row.Size += d.LogicalSize
				sum = sum.Add(d.Counters)
			}
			row.Read, row.Same, row.Sent, row.Wire = sum.Read, sum.Same, sum.Sent, sum.Wire
			if finished := runs[i].Finished; !finished.IsZero() {
				row.Time = finished.Sub(runs[i].Started).Seconds()
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// WriteJobTable writes rows as plain text in aligned columns, and below them what the VMs that failed say.
func WriteJobTable(w io.Writer, rows []JobRow) error {
	body := make([]table.Row, 0, len(rows))
	var below []string
	for _, r := range rows {
		body = append(body, table.Row{
			r.VM, r.State, r.Disks, size(r.Size), size(r.Read), size(r.Same), size(r.Sent), size(r.Wire), ended(r.Time), r.Run,
		})
		if r.Error != "" {
			below = append(below, r.VM+": "+r.Error)
		}
	}
	return writePlain(w, table.Row{"vm", "state", "disks", "size", "read", "same", "sent", "wire", "time", "run"}, []string{"vm", "state", "run"}, body, below)
}
