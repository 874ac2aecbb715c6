// Package guesttest is the conformance suite that every appliance.Guest passes. The test that runs it plays the pool's side.
//
//	Hand (dom0's side) ──▶ XenStore, fw_cfg, directory … ──▶ appliance.Guest
//	                   ◀──                               ◀──
package guesttest
