// Package report holds what a run has to say for itself: which VM went where, what became of each disk, how many bytes
// were read, found equal, copied and sent, in which phases, and why the run took the way it took.
//
// The values are plain data. Whoever drives a run fills in a Run; the command line, the API, the web page, metrics and
// notifications read the same value, and its JSON form is the only serial form. Nothing here computes a verdict or
// touches a disk, so every face shows the same numbers.
//
//	transfer ──counters──▶ ┌─────────────┐ ──▶ WriteTable   (people)
//	replication ─phases──▶ │ report.Run  │ ──▶ encoding/json (scripts, API, state database)
//	trust ──────causes───▶ └─────────────┘ ──▶ Rows          (one row a disk)
//
// A JobRun is the same for a run of a job: what became of each VM, and which Run tells more of it. Findings are what stands in
// the way of a run, or should be known before it.
//
// States, modes and phases are typed strings: they are read by people and stored for years. Each type has a Valid
// method; Run.Validate applies them all before a report is stored.
package report
