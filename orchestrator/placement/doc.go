// Package placement decides where delegates run and which disk is attached to which of them.
//
// It is pure: the inventories of both pools go in, a Plan comes out, and nothing is asked or changed on the way. A
// Plan is a value with JSON, so that it can be printed, checked, stored and resumed; a plan that is impossible is
// an *Infeasible that names each cause with what would mend it. Readiness looks for what would stop a run that can be
// placed: licences, versions, chains, formats, operations in progress. PlaceClone does both for a clone of a restore point. All speak in findings with stable codes.
//
//	source pool ─┐                        ┌─ one delegate: a host sees source SRs, target SR, image SR
//	target pool ─┼─▶ MakePlan ─▶ Plan ────┤
//	VM, SR      ─┘        └─▶ Infeasible  └─ two: a host a side, one dials the other
//
// With Request.NoDelegates there are none to place; space, formats and what a snapshot needs are looked at as ever.
//
// Addresses are not leased here, because that needs a memory; this package only reads the ranges they come from
// (ParseAddresses).
package placement
