// Package line is a line that can be broken: package netproto/line, which is thin and long, with cuts and resets on command or after
// so many bytes. Tests put it between two ends; 'understudy bench --line' has the same line without the faults.
package line
