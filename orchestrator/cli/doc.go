// Package cli is the command line of the orchestrator: one file a command, standing on the packages that do the work.
//
//	arguments ─▶ cobra ─▶ command ─┬─▶ state.Store, xapi.Client, replication.Engine …
//	                               ├─▶ stdout: text, or with --json exactly one document
//	                               ├─▶ stderr: log lines, progress (package progress), errors
//	                               └─▶ exit code (exit.go; 'understudy help exit-codes')
//
// A command decides nothing that another face (API, web page) would have to decide as well: it reads flags, calls, and prints.
package cli
