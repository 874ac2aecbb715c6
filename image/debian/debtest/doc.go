// Package debtest packs small Debian packages for the tests of what unpacks them.
package debtest
