// Package events keeps the delegate's last log lines in memory, numbered, so that the orchestrator can fetch them and sees when
// it missed some. A delegate has no disk of its own to log to.
//
//	slog ──▶ Handler ──▶ Ring (bounded) ──▶ Page(after) ──▶ control API
//	             └─────▶ console
package events
