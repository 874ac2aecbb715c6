package bench

import (
	"io/fs"
	"syscall"
)

// sameDevice reports whether two device nodes are of one device, whatever their names.
func sameDevice(a, b fs.FileInfo) bool {
	x, ok := a.Sys().(*syscall.Stat_t)
	y, too := b.Sys().(*syscall.Stat_t)
	return ok && too && a.Mode().Type() == fs.ModeDevice && b.Mode().Type() == fs.ModeDevice && x.Rdev == y.Rdev
}
