package guestxen

// VBDNumber maps ids as WatchDevices does.
var VBDNumber = vbdNumber

// Number reads a disk's directory in sysfs as WatchDevices does.
var Number = number
