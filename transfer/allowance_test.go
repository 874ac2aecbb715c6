package transfer_test

import (
	"testing"

	"github.com/understudy-dr/understudy/transfer"
)

// TestAllowance: how much waits follows from what the ends have in common, and what
// waited in vain is never made up for but by more of that.
func TestAllowance(t *testing.T) {
	const mib, gib = 16, 16384 // blocks
	a := transfer.NewAllowance(transfer.Tuning{}, 4<<30)
	expect := func(what string, want int) {
		t.Helper()
		if got := a.Fill(); got != want {
			t.Errorf("%s: %d blocks wait, want %d", what, got, want)
		}
	}
	expect("at a sink that is empty so far", 0)
	a.Holds(3)
	expect("at one with little content", 24)
	a.Holds(4 * gib)
	expect("with nothing in common", 512*mib)
	a.Asked(512 * mib)
	expect("after all had waited in vain", 0)
	a.Alike(gib)
	expect("once much is alike", gib)
}

// TestAllowanceMost: no more waits at a time than may, though more may wait in vain.
func TestAllowanceMost(t *testing.T) {
	a := transfer.NewAllowance(transfer.Tuning{Defer: 1 << 20}, 4<<30)
	a.Holds(100)
	a.Alike(1600)
	if got := a.Fill(); got != 16 {
		t.Errorf("%d blocks wait, want 16", got)
	}
	a.Found(16)
	if got := a.Fill(); got != 16 {
		t.Errorf("%d blocks wait after as many were found, want 16", got)
	}
	if a = transfer.NewAllowance(transfer.Tuning{Defer: -1}, 4<<30); a.Fill() != 0 {
		t.Error("blocks wait that must not")
	}
}
