// Package delegate deploys the appliance's image, starts the appliance VMs of a run, makes sure who they are, plugs disks into
// them and removes them again.
//
// A delegate is a clone of the deployed template. The pool's database is readable by every API user and clones carry whatever
// their original had, so nothing found there is believed by itself: what counts is a nonce drawn for this start, the key that
// the guest proves over TLS, and the hash of the configuration that the guest acted on.
//
//	Spawn   lease address ─▶ record intent ─▶ VM.clone ─▶ markers ─▶ vm-data: in/* set, all else dropped ─▶ VM.start_on
//	           │
//	           ▼ events of this one VM
//	        out/identity = version:nonce:fingerprint:domain ── another nonce: not ours, wait on
//	           │
//	           ▼ TLS, both ends pinned
//	        status: protocol, VM, nonce, domain, configuration hash ─▶ digest key ─▶ Delegate
//
//	Plug    VBD.create ─▶ VBD.plug ─▶ the delegate lists the disk with its size
//	Unplug  the delegate closes the disk and says so ─▶ VBD.unplug ─▶ VBD.destroy ─▶ the delegate lists it no more
//	Retire  power off by control ─▶ hard shutdown if need be ─▶ its boot disk ─▶ its VM
//
//	Deploy  image checked to its end ─▶ task made, recorded as intent ─▶ PUT /import ─▶ VIF, name, markers, its own uuid last ─▶ kept
//
// A delegate has one record in the saga, that of its VM. VM.clone makes a disk as well, which no record can name before it
// exists; hence the disk goes before the VM: until the last call the record leads to whatever is left. Undoers removes delegates
// by the same code from their records alone, so that those of a run whose process died go the same way.
package delegate
