// Package statetest gives tests state directories. To bring a new one to its schema takes a while, above all with the race
// detector: one is made for each process, and the others are copies of it.
//
//	Open ──▶ made already? ──no──▶ state.Open of the first ──▶ its files in memory ──▶ copied ──▶ state.Open
//
// All of a process are therefore of one installation.
package statetest
