// Package saga makes objects in pools so that none is forgotten. A run that dies anywhere, by an error, a cancelled context
// or a killed process, leaves a record that names everything it made; from that record alone it is cleaned up, by the run
// itself or by a later process.
//
//	Create   intent durable ──▶ object created under the intent's name ──▶ uuid durable
//	            │                     │                                      │
//	            ▼ killed here:        ▼ killed here:                         ▼ killed here:
//	         nothing exists,       found by its name,                     found by its uuid
//	         undoing finds none    which carries the run
//
//	Keep     the object is part of the result and outlives the run
//	Release  it does no longer, and goes as the others do
//	Unwind   every other object is undone, in each pool the newest first, whatever became of the run's context
//	Recover  the same for runs whose process died, and for what an Unwind could not remove
//
// How an object is undone depends on its kind only: an Undoer gets nothing but the record, so that the process that made the
// object and the one that finds it after a crash undo it by the same code. An Undoer must be idempotent; an object that
// does not exist is undone.
//
// A state that a run puts somebody's object into is made and undone like an object: a VM that is paused, for one. Its uuid is then that of
// whose state it is.
//
// Nothing is resumed here: whoever resumes a run takes it over in the state store and decides what to keep.
package saga
