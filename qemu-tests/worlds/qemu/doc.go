// Package qemu is the world whose machines are booted by QEMU, without KVM and without root: the delegate's built image on real
// firmware, with disks that are plugged while it runs. Its machines share a network of package lan.
//
//	xapisim (dom0)                <dir>/<VM uuid>.<domain>/          qemu-system-x86_64
//	  Start     -- guest.json: vm, unique-domain-id, vm-data/** ----> fw_cfg opt/org.understudy/guest
//	            -- the VM's own disks --------------------------------> SeaBIOS or OVMF boots the first one
//	  Tree  <---+- {"write":{…}} {"remove":[…]} --------------------- virtio-serial port org.understudy.guest
//	  SetData --+- the same the other way ---------------------------->
//	  Shutdown -+- control/shutdown; the guest removes it
//	  Plug      -- QMP: blockdev-add, device_add ---------------------> virtio-blk with serial vbd-<number>
//	  Unplug    -- QMP: device_del, DEVICE_DELETED, blockdev-del
//	  Pause     -- QMP: stop, cont
//	  Interrupt -- QMP: inject-nmi; no pool has this, tests find it by its name
//	  Kill      -- SIGKILL
//	                              console.log <---------------------- serial port
//	                              port.log: what went over the virtio-serial port
//	                              qemu.log: QEMU's own complaints
//
// QMP and the virtio-serial port are socket pairs that QEMU inherits: no path, no listener, and they end with either side.
// A disk is opened with direct I/O where its file system and its size allow that. QEMU's locks on disk images stay on: they are a second
// judge of the pool's rule of one writer or many readers.
//
// In three things the world is kinder than Xen. A guest has no say in an unplug, as blkfront has: the kernel gives the disk
// up even while a program holds it open. What the guest writes is mirrored whether or not it could write that to
// XenStore. And firmware and kernel need no PV drivers.
package qemu
