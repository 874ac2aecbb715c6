// Package guestdir is an appliance.Guest over a directory of small files that stands for the domain's directory in XenStore. It
// exists for tests that run the delegate as a local process, and refuses to work as PID 1, where a real guest is meant.
//
//	pool's side ('dom0')                 DIR                                  delegate
//	─ vm, unique-domain-id ────────────▶ a key is a relative path, ─────────▶ Domain
//	─ vm-data/understudy/in/* ─────────▶ its value the file's content ──────▶ Input
//	─ device/vbd/<n> (path, r|w) ──────▶                            ────────▶ WatchDevices
//	─ control/shutdown ────────────────▶                            ────────▶ AwaitShutdown (removes it)
//	◀ attr/*, feature/*, vm-data/…/out/* ◀──────────────────────────────────  Publish, PowerOff
//
// Writers write a temporary file whose name begins with '.' and rename it; readers ignore such names. Both sides poll.
package guestdir
