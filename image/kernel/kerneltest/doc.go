// Package kerneltest writes trees that look like an unpacked kernel package, with modules of a few hundred bytes, for the
// tests of what reads such trees. No kernel would load these modules: they have the one section that says what they need.
package kerneltest
