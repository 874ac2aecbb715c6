package peers

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// alone calls f with a loopback device that nobody else uses, so that its counter is f's alone: in a network namespace of its own
// (network_namespaces(7)), which the processes that f starts inherit. f must not leave its goroutine to use the network. Without the
// right to one, f gets the machine's loopback device, and own is false.
func alone(f func() error) (own bool, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread ends with the goroutine, and the namespace with its last process.
		runtime.LockOSThread()
		if err = unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) {
			err = f()
			return
		} else if err == nil {
			err = loopbackUp()
		}
		if err != nil {
			err = fmt.Errorf("a loopback device of its own: %w", err)
			return
		}
		own = true
		err = f()
	}()
	<-done
	return own, err
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
