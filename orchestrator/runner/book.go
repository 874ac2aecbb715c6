package runner

import (
	"context"
	"log/slog"
	"sync"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// book keeps the report of a job's run: whatever changes in it is stored and shown. It is safe for concurrent use.
type book struct {
	store   *state.Store
	log     *slog.Logger
	observe func(report.JobRun)

	mu  sync.Mutex
	run report.JobRun
}

// change changes the report. That it cannot be stored is a matter of the log but at the run's end: what it says is found again in
// the VM runs.
func (b *book) change(f func(*report.JobRun)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.run)
	err := b.store.SaveJobRun(context.Background(), b.run)
	if err != nil {
		b.log.Warn("the report of the job's run could not be stored", "cause", err)
	}
	if b.observe != nil {
		b.observe(b.run.Clone())
	}
	return err
}

// vm changes what is said of one VM.
func (b *book) vm(uuid string, f func(*report.JobVM)) {
	_ = b.change(func(run *report.JobRun) { // logged
		for i := range run.VMs {
			if run.VMs[i].VM.UUID == uuid {
				f(&run.VMs[i])
			}
		}
	})
}

func (b *book) copy() report.JobRun {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.run.Clone()
}
