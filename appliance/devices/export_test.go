package devices

import "github.com/understudy-dr/understudy/blockio"

// SetOpen replaces what opens disks.
func (r *Registry) SetOpen(open func(path string, o blockio.Options) (blockio.Device, error)) {
	r.open = open
}
