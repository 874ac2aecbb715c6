// Package grubtest writes trees that look like unpacked GRUB packages, whose grub-mkimage is a shell script that answers
// with its configuration and arguments; for the tests of what makes boot loaders.
package grubtest
